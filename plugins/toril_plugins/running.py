"""Running a command's work on an App, and finding the queue that it is about."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

from toril import App, Queue
from toril.commands import CommandError, Exit, talk
from toril.plugins import did_you_mean

T = TypeVar("T")


def with_app(url: str | None, prefix: str, work: Callable[[App], Awaitable[T]]) -> T:
    """What `work` returns, done on an App of its own, on a loop of its own."""

    async def run() -> T:
        async with App(url, prefix=prefix) as app:
            return await work(app)

    return asyncio.run(run())


async def existing(app: App, name: str) -> Queue:
    """The queue; ends the command with exit code 4 if nothing is stored of it."""
    queue = app.queue(name)
    if (hint := await _unknown(app, queue)) is not None:
        raise CommandError(
            f"there is no queue {name!r}{hint or '; `toril queues ls` shows which there are'}",
            Exit.NOT_FOUND,
        )
    return queue


async def named(app: App, name: str) -> Queue:
    """The queue, of which something is to be said; a new one is mentioned, as it may be a typo."""
    queue = app.queue(name)
    if (hint := await _unknown(app, queue)) is not None:
        talk(f"queue {name!r} is new: it has no jobs yet{hint}")
    return queue


async def _unknown(app: App, queue: Queue) -> str | None:
    """None if the queue is there; else what may have been meant."""
    if any((await queue.counts()).values()):
        return None
    names = await app.queues()  # walks all keys: only where there are no jobs
    return None if queue.name in names else did_you_mean(queue.name, names)
