"""Large flows whose adding broke off: they are taken back, at whatever step that was."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

import pytest
import redis
from tests.support.invariants import check
from tests.worker.conftest import Listener

from toril.app import App
from toril.clock import ManualClock
from toril.connection.steps import InThread
from toril.connection.steps import Steps as Conversation
from toril.errors import ServerError
from toril.flow import Flow
from toril.job_events import JobRemoved, JobSaved
from toril.worker import ActiveJob


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
async def app(redis_url: str, clock: ManualClock, listener: Listener) -> AsyncIterator[App]:
    async with App(redis_url, plugins=[listener], clock=clock) as made:
        yield made


def large(**root: Any) -> Flow:
    """A flow that is added in six steps: parents, links, three times leaves, the end."""
    middles = [
        Flow("mid", f"m{n}", id=f"m{n}", children=[Flow("leaf", "l") for _ in range(130)])
        for n in range(4)
    ]
    return Flow("top", "root", id="root", children=middles, **root)


class Steps:
    """Stands between an App and its server, and lets so many steps through."""

    def __init__(self, app: App, monkeypatch: pytest.MonkeyPatch, most: int) -> None:
        self.left = most
        self._converse = app.runtime.executor.converse
        monkeypatch.setattr(app.runtime.executor, "converse", self.converse)

    def converse(self, request: Any, *more: Any) -> Conversation[Any]:
        is_step = getattr(request, "script", "") == "add" and b"\xa5check" not in request.args[0]
        if is_step:
            if self.left == 0:
                raise asyncio.CancelledError
            self.left -= 1
        return (yield from self._converse(request, *more))


async def broken(app: App, most: int, flow: Flow) -> bool:
    """Add a flow, and die after so many steps; False if it has no more steps than that."""
    with pytest.MonkeyPatch.context() as patch:
        Steps(app, patch, most)
        with contextlib.suppress(asyncio.CancelledError):
            await app.add_flow(flow)
            return False
    return True


async def rescue(app: App, clock: ManualClock) -> None:
    clock.advance("61s")
    assert await app.run_services("top")


async def test_at_every_step(
    app: App, raw: redis.Redis, clock: ManualClock, listener: Listener
) -> None:
    steps = 1
    while await broken(app, steps, large()):
        await app.run_services("top")
        assert raw.zcard("bull:top:waiting-children") == 1, "it may still go on"
        await rescue(app, clock)
        for queue in ("top", "mid", "leaf"):
            counts = await app.queue(queue).counts()
            assert not any(counts.values())
        assert raw.keys("bull:*:toril:flows*") == []
        assert check(raw, at_rest=True) == []
        assert raw.keys("*:dependencies") == []
        removed = listener.of(JobRemoved)
        assert {event.cause for event in removed} == {"flow"}
        assert len(removed) == len(listener.of(JobSaved))
        listener.events.clear()
        steps += 1
    assert steps == 7
    await app.run_services("top")
    assert raw.llen("bull:leaf:wait") == 520, "one that was finished stays"


async def test_jobs_that_were_there_before_stay(
    app: App, raw: redis.Redis, clock: ManualClock
) -> None:
    """A parent of them goes on waiting for its own children, and only for these."""
    own = Flow("leaf", "own", id="own", delay="1h")
    waits = await app.add_flow(Flow("mid", "m1", id="m1", children=[own]))
    ready = await app.add_flow(Flow("mid", "m2", id="m2", children=[Flow("leaf", "done")]))

    async def work(job: ActiveJob) -> None: ...

    await app.worker("leaf", work).run(burst=True)
    leaf = await app.queue("leaf").add("known", id="known")
    known = Flow("leaf", "known", id="known")
    children = [*large().children, known]
    assert await broken(app, 3, Flow("top", "root", id="root", children=children))
    assert raw.scard("bull:mid:m1:dependencies") == 131
    await rescue(app, clock)
    assert raw.smembers("bull:mid:m1:dependencies") == {"bull:leaf:own"}
    assert not raw.exists("bull:mid:m2:dependencies")
    assert await waits.state() == "waiting-children"
    assert await ready.state() == "waiting"
    assert await leaf.state() == "waiting"
    assert set(raw.keys("bull:mid:m?")) == {"bull:mid:m1", "bull:mid:m2"}
    assert check(raw) == []


async def test_a_job_that_runs_goes_afterwards(
    app: App, raw: redis.Redis, clock: ManualClock
) -> None:
    began, go_on = asyncio.Event(), asyncio.Event()

    async def slow(job: ActiveJob) -> None:
        began.set()
        await go_on.wait()

    assert await broken(app, 3, large())
    async with app.worker("leaf", slow):
        await began.wait()
        await rescue(app, clock)
        assert raw.exists("bull:top:toril:flows:root")
        assert raw.llen("bull:leaf:active") == 1
        go_on.set()
    await rescue(app, clock)
    assert not raw.exists("bull:top:toril:flows:root", "bull:top:toril:flows")
    assert not any((await app.queue("leaf").counts()).values())


async def test_who_comes_too_late_is_told(
    app: App, raw: redis.Redis, clock: ManualClock, redis_url: str
) -> None:
    """A producer that stood still for more than a minute goes on with its next step."""
    other = App(redis_url, plugins=[], clock=clock)
    calls, loop = 0, asyncio.get_running_loop()
    converse = app.runtime.executor.converse

    def taken_back() -> None:
        assert asyncio.run_coroutine_threadsafe(other.run_services("top"), loop).result()

    def slow(request: Any, *more: Any) -> Conversation[Any]:
        nonlocal calls
        if getattr(request, "script", "") == "add" and b"\xa5check" not in request.args[0]:
            calls += 1
            if calls == 4:
                clock.advance("61s")
                yield InThread(taken_back)
        return (yield from converse(request, *more))

    async with other:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(app.runtime.executor, "converse", slow)
            with pytest.raises(ServerError, match="the flow was taken back"):
                await app.add_flow(large())
    assert calls == 4
    for queue in ("top", "mid", "leaf"):
        assert not any((await app.queue(queue).counts()).values())
    await app.add_flow(large())
    assert raw.llen("bull:leaf:wait") == 520


async def test_the_lease_is_renewed_with_every_step(
    app: App, raw: redis.Redis, clock: ManualClock, redis_url: str
) -> None:
    converse = app.runtime.executor.converse

    def slow(request: Any, *more: Any) -> Conversation[Any]:
        if getattr(request, "script", "") == "add":
            clock.advance("30s")
        return (yield from converse(request, *more))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(app.runtime.executor, "converse", slow)
        await app.add_flow(large())
    assert raw.llen("bull:leaf:wait") == 520
