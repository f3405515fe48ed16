"""Cancelling a caller: what was sent is finished and the plugins hear of it; nothing is begun."""

from __future__ import annotations

import asyncio
import contextlib
import os
import time
from collections.abc import AsyncGenerator, Coroutine, Sequence
from typing import Any

import pytest
import redis
from tests.nouns.test_app import forked
from tests.nouns.witness import Witness, until
from tests.support.proxy import FaultProxy
from tests.support.server import Server

from toril import App, JobNotFound, NewJob, hookimpl
from toril import carry_out as module
from toril.plugins import JobEvent, JobRemoved, JobSaved, PluginContext, Registry, ServiceContext
from toril.worker.services import services_of


def held(raw: redis.Redis) -> bool:
    """Whether a client waits for the server to carry out what it has sent."""
    return any("b" in client["flags"] for client in raw.client_list())


@contextlib.asynccontextmanager
async def sent_and_held(raw: redis.Redis) -> AsyncGenerator[None]:
    """Within it a script reaches the server, which carries it out afterwards."""
    raw.client_pause(10_000, all=False)
    try:
        yield
        await until(lambda: held(raw))
    finally:
        raw.client_unpause()


async def cancelled_now(task: asyncio.Task[Any]) -> None:
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def cancelled_while_held(raw: redis.Redis, work: Coroutine[Any, Any, Any]) -> None:
    """Cancel a task between its request and the reply."""
    async with sent_and_held(raw):
        task = asyncio.create_task(work)
    await cancelled_now(task)


class Gate:
    """A plugin that tells of nothing until it is let."""

    toril_name = "gate"

    def __init__(self) -> None:
        self.asked = asyncio.Event()
        self.opened = asyncio.Event()

    @hookimpl
    async def toril_jobs_removed(self, events: Sequence[JobRemoved]) -> None:
        self.asked.set()
        await self.opened.wait()


def removed(events: Sequence[JobEvent]) -> list[str]:
    return [event.job.id for event in events if isinstance(event, JobRemoved)]


async def test_the_plugins_hear_of_what_was_sent(
    watched: App, witness: Witness, raw: redis.Redis
) -> None:
    queue = watched.queue("q")
    await queue.add("n", id="a")
    before = asyncio.all_tasks()
    await cancelled_while_held(raw, queue.remove("a"))
    assert removed(witness.events) == ["a"]
    assert asyncio.all_tasks() == before
    assert await queue.get("a") is None


async def test_a_time_out_is_one(watched: App, witness: Witness, raw: redis.Redis) -> None:
    queue = watched.queue("q")
    await queue.add("n", id="a")
    raw.client_pause(100, all=False)
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.05):
            await queue.remove("a")
    assert removed(witness.events) == ["a"]
    assert await queue.state("a") == "unknown", "the task goes on"


async def test_the_next_request_is_not_sent(
    watched: App, witness: Witness, raw: redis.Redis
) -> None:
    jobs = [NewJob("n", n, id=f"j{n}") for n in range(650)]
    await cancelled_while_held(raw, watched.queue("q").add_many(jobs))
    assert len(witness.events) == 400  # two calls were under way
    assert raw.llen("bull:q:wait") == 400


async def test_all_plugins_are_told_first(redis_url: str) -> None:
    gate, witness = Gate(), Witness()
    async with App(redis_url, plugins=[gate, witness]) as app:
        queue = app.queue("q")
        await queue.add("n", id="a")
        task = asyncio.create_task(queue.remove("a"))
        await gate.asked.wait()
        for _ in range(3):
            task.cancel()
            await asyncio.sleep(0.005)
        assert not task.done()
        gate.opened.set()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert removed(witness.events) == ["a"]


async def test_a_failure_of_what_nobody_waits_for_is_dropped(
    watched: App, raw: redis.Redis, caplog: pytest.LogCaptureFixture
) -> None:
    queue = watched.queue("q")
    job = await queue.add("n", id="a")
    raw.delete("bull:q:a")
    await cancelled_while_held(raw, job.update({}))
    with pytest.raises(JobNotFound):
        await job.update({})
    assert not caplog.records


async def test_what_has_not_been_sent_is_given_up_at_once(server: Server, redis_url: str) -> None:
    with FaultProxy.start(server.port) as proxy:
        async with App(proxy.url, plugins=[]) as app:
            proxy.refuse()
            task = asyncio.create_task(app.queue("q").pause())
            await asyncio.sleep(0.03)
            started = time.monotonic()
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert time.monotonic() - started < module.TO_ANSWER / 2


async def test_a_server_that_says_nothing_holds_nobody_up(
    server: Server, redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "TO_ANSWER", 0.05)
    with FaultProxy.start(server.port) as proxy:
        async with App(proxy.url, plugins=[]) as app:
            await app.queue("q").pause()
            proxy.blackhole()
            task = asyncio.create_task(app.queue("q").resume())
            await asyncio.sleep(0.03)
            task.cancel()
            async with asyncio.timeout(2):
                with pytest.raises(asyncio.CancelledError):
                    await task


async def test_a_plugin_that_hangs_holds_nobody_up(
    redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "TO_ANSWER", 0.01)
    monkeypatch.setattr(module, "TO_TELL", 0.05)
    gate = Gate()
    async with App(redis_url, plugins=[gate]) as app:
        queue = app.queue("q")
        await queue.add("n", id="a")
        task = asyncio.create_task(queue.remove("a"))
        await gate.asked.wait()
        task.cancel()
        async with asyncio.timeout(2):
            with pytest.raises(asyncio.CancelledError):
                await task


class Sweeper(Witness):
    """Removes a job in its service."""

    def __init__(self) -> None:
        super().__init__()
        self.begun = asyncio.Event()
        self.go_on = asyncio.Event()

    @hookimpl
    def toril_register(self, registry: Registry) -> None:
        registry.script("sweep", "return ctx.remove(args.id, 'completed', 'rule', 5)")
        registry.service("sweep", lambda: self)

    async def run_once(self, context: ServiceContext) -> None:
        self.begun.set()
        await self.go_on.wait()
        await context.run_script("sweep", {"id": "a"})


async def test_a_service_reports_the_slice_in_which_it_was_stopped(
    redis_url: str, raw: redis.Redis
) -> None:
    plugin = Sweeper()
    async with App(redis_url, plugins=[plugin]) as app:
        raw.hset("bull:q:a", mapping={"name": "n", "data": "1", "opts": "{}", "timestamp": 1})
        raw.zadd("bull:q:completed", {"a": 5})
        *_, service = services_of(app.runtime, "q")
        serving = asyncio.create_task(service.run())
        await plugin.begun.wait()
        async with sent_and_held(raw):
            plugin.go_on.set()
        await cancelled_now(serving)
        assert removed(plugin.events) == ["a"]
        assert not raw.exists("bull:q:toril:lease:sweep"), "the lease is given back"


async def test_a_job_that_was_sent_is_added_and_reported(
    redis_url: str, witness: Witness, raw: redis.Redis
) -> None:
    async with App(redis_url, plugins=[witness]) as app:
        await app.queue("q").pause()
        await cancelled_while_held(raw, app.queue("q").add("n", id="a"))
    assert [event.job.id for event in witness.events] == ["a"], "once the App is closed"


async def test_a_job_that_was_not_sent_is_taken_back(
    watched: App, witness: Witness, raw: redis.Redis
) -> None:
    queue = watched.queue("q")
    async with sent_and_held(raw):
        first = asyncio.create_task(queue.add("n", id="a"))
        await until(lambda: held(raw))
        second = asyncio.create_task(queue.add("n", id="b"))
        await until(lambda: len(witness.drafts) == 2)
        await cancelled_now(second)
    await first
    await queue.add("n", id="c")
    assert [event.job.id for event in witness.events] == ["a", "c"]
    assert await queue.get("b") is None


async def test_an_app_that_is_closed_while_it_starts_is_closed(redis_url: str) -> None:
    starting, life = asyncio.Event(), list[str]()

    class Slow:
        toril_name = "slow"

        @hookimpl
        async def toril_start(self, context: PluginContext) -> None:
            starting.set()
            await asyncio.sleep(0.02)
            life.append("start")

        @hookimpl
        def toril_stop(self) -> None:
            life.append("stop")

    app = App(redis_url, plugins=[Slow()])
    task = asyncio.create_task(app.queue("q").pause())
    await starting.wait()
    await cancelled_now(task)
    await app.aclose()
    assert life == ["start", "stop"]


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
async def test_a_child_forked_while_a_job_is_added_adds_its_own(
    redis_url: str, raw: redis.Redis
) -> None:
    parent, told, opened = os.getpid(), asyncio.Event(), asyncio.Event()

    class Gate:
        toril_name = "gate"

        @hookimpl
        async def toril_jobs_saved(self, events: Sequence[JobSaved]) -> None:
            if os.getpid() == parent:
                told.set()
                await opened.wait()

    async with App(redis_url, plugins=[Gate()]) as app:

        async def add() -> None:
            async with asyncio.timeout(5):
                await app.queue("q").add("n", id="child")

        adding = asyncio.create_task(app.queue("q").add("n", id="parent"))
        await told.wait()
        code = await asyncio.to_thread(forked, lambda: asyncio.run(add()))
        opened.set()
        await adding
    assert code == 0
    assert raw.lrange("bull:q:wait", 0, -1) == ["child", "parent"]
