"""Tasks that begin at once."""

from __future__ import annotations

import asyncio
import contextvars
import sys
from collections.abc import Coroutine
from typing import Any
from unittest.mock import Mock

import pytest

from toril.worker.start import start

AT_ONCE = sys.version_info >= (3, 12)
where: contextvars.ContextVar[str] = contextvars.ContextVar("where", default="outside")


async def test_what_waits_for_nothing_is_done_at_once_where_python_can_do_that() -> None:
    async def work() -> int:
        return 1

    task = start(work())
    assert task.done() == AT_ONCE
    assert await task == 1


async def test_what_it_does_to_the_context_stays_inside() -> None:
    async def work() -> tuple[asyncio.Task[object] | None, str]:
        where.set("inside")
        return asyncio.current_task(), where.get()

    task = start(work())
    assert await task == (task, "inside")
    assert where.get() == "outside"


async def test_it_is_cancelled_like_any_other() -> None:
    began = asyncio.Event()

    async def work() -> None:
        began.set()
        await asyncio.sleep(60)

    task = start(work())
    assert began.is_set() == AT_ONCE
    await began.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_a_task_factory_makes_it() -> None:
    loop = asyncio.get_running_loop()

    def make(
        loop: asyncio.AbstractEventLoop, work: Coroutine[Any, Any, Any], **more: Any
    ) -> asyncio.Task[Any]:
        return asyncio.Task(work, loop=loop, **more)

    factory = Mock(side_effect=make)

    async def work() -> None: ...

    loop.set_task_factory(factory)
    try:
        await start(work())
    finally:
        loop.set_task_factory(None)
    assert factory.call_count == 1
