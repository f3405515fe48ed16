"""Services that do not behave."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Coroutine
from typing import Any

import pytest
import redis
from tests.worker.conftest import until

from toril import App, hookimpl
from toril.plugins import Registry, ServiceContext
from toril.worker import ActiveJob, session


class Serving:
    """A plugin with one service, which does what it is told."""

    toril_name = "serving"

    def __init__(self, act: Callable[[], Coroutine[Any, Any, None]]) -> None:
        self._act = act
        self.runs = 0

    @hookimpl
    def toril_register(self, registry: Registry) -> None:
        registry.service("serving", lambda: self)

    async def run_once(self, context: ServiceContext) -> float | None:
        self.runs += 1
        await self._act()
        return 0.01


async def handler(job: ActiveJob) -> None:
    pass


async def test_one_that_ignores_its_end_does_not_hold_up_the_stop(
    redis_url: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(session, "_TO_GIVE_WAY", (0.02, 0.02))
    let_go = asyncio.Event()

    async def ignore() -> None:
        while not let_go.is_set():
            try:
                await let_go.wait()
            except asyncio.CancelledError:
                continue

    plugin = Serving(ignore)
    async with App(redis_url, plugins=[plugin]) as app:
        try:
            async with asyncio.timeout(5), app.worker("q", handler):
                await until(lambda: plugin.runs)
        finally:
            let_go.set()
        assert "left behind" in caplog.text
        (behind,) = [task for task in asyncio.all_tasks() if "LeasedService.run()" in repr(task)]
        behind.cancel()
        await asyncio.wait((behind,))


async def test_one_that_takes_no_notice_of_its_end_is_not_run_again(redis_url: str) -> None:
    async def ignore() -> None:
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.Event().wait()

    plugin = Serving(ignore)
    async with (
        App(redis_url, plugins=[plugin]) as app,
        asyncio.timeout(2),
        app.worker("q", handler),
    ):
        await until(lambda: plugin.runs)
    assert plugin.runs == 1


async def test_one_that_cancels_itself_is_tried_again(
    redis_url: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("toril.worker.services._FIRST_PAUSE", 0.01)

    async def cancel() -> None:
        raise asyncio.CancelledError

    plugin = Serving(cancel)
    async with App(redis_url, plugins=[plugin]) as app, app.worker("q", handler):
        await until(lambda: plugin.runs > 1)
    assert "service 'serving' of plugin 'serving' failed on queue 'q'" in caplog.text


class Rounds:
    """A plugin whose service has more to do twice."""

    toril_name = "rounds"

    def __init__(self, raw: redis.Redis, *, losing: bool) -> None:
        self._raw = raw
        self._losing = losing
        self.runs = 0

    @hookimpl
    def toril_register(self, registry: Registry) -> None:
        registry.service("rounds", lambda: self)

    async def run_once(self, context: ServiceContext) -> float:
        self.runs += 1
        assert self._raw.pttl("bull:q:toril:lease:rounds") > 20_000
        self._raw.pexpire("bull:q:toril:lease:rounds", 5_000)  # as if much time had passed
        if self._losing:
            self._raw.set("bull:q:toril:lease:rounds", "somebody else")
        return 0 if self.runs < 3 else 60


async def test_by_hand_it_is_run_until_it_has_no_more_to_do(
    redis_url: str, raw: redis.Redis
) -> None:
    plugin = Rounds(raw, losing=False)
    async with App(redis_url, plugins=[plugin]) as app:
        assert await app.run_services("q")
        assert plugin.runs == 3
        assert not raw.exists("bull:q:toril:lease:rounds")


async def test_by_hand_it_is_not_run_on_without_the_lease(redis_url: str, raw: redis.Redis) -> None:
    plugin = Rounds(raw, losing=True)
    async with App(redis_url, plugins=[plugin]) as app:
        assert not await app.run_services("q")
        assert plugin.runs == 1
        assert raw.get("bull:q:toril:lease:rounds") == "somebody else"
