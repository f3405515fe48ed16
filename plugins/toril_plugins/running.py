"""Running a command's work on an App."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

from toril import App

T = TypeVar("T")


def with_app(url: str | None, prefix: str, work: Callable[[App], Awaitable[T]]) -> T:
    """What `work` returns, done on an App of its own, on a loop of its own."""

    async def run() -> T:
        async with App(url, prefix=prefix) as app:
            return await work(app)

    return asyncio.run(run())
