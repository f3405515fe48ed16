"""Lost replies, a server that goes away and comes back, several workers, all at once."""

from __future__ import annotations

import asyncio
import logging
import subprocess
from typing import Any

import pytest
import redis
from tests.conftest import ServerFactory
from tests.support.proxy import FaultProxy
from tests.support.server import Server
from tests.worker.conftest import Listener, until

from toril.app import App
from toril.errors import WaitForChildren
from toril.job_events import JobCompleted
from toril.new_job import NewJob
from toril.worker import ActiveJob


async def completed(app: App, count: int) -> bool:
    return (await app.queue("q").counts())["completed"] == count


def restart(server: Server) -> None:
    """Kill the server and start it again in the same place."""
    server.process.kill()
    server.process.wait()
    server.process = subprocess.Popen(server.process.args, stdout=subprocess.DEVNULL)
    assert server._answers()


@pytest.mark.parametrize("nth", range(1, 8))
@pytest.mark.parametrize("lost", ["reply", "command"])
async def test_a_lost_reply_loses_and_repeats_nothing(
    server: Server, redis_url: str, raw: redis.Redis, nth: int, lost: str
) -> None:
    """Whichever call of the worker's it is."""
    runs: list[Any] = []
    listener = Listener()

    async def handler(job: ActiveJob) -> None:
        runs.append(job.data)

    async with App(redis_url, plugins=[]) as producer:
        await producer.queue("q").add_many([NewJob("n", n) for n in range(32)])
    with FaultProxy.start(server.port) as proxy:
        async with App(proxy.url, plugins=[listener]) as app:
            (proxy.drop_reply if lost == "reply" else proxy.drop_command)("EVALSHA", nth)
            await app.worker("q", handler, concurrency=4, lock="5s").run(burst=True)
            assert proxy.dropped == 1
            assert await completed(app, 32)
    assert sorted(runs) == list(range(32))
    assert len(listener.of(JobCompleted)) == 32
    ats = {raw.hget(f"bull:q:{event.job.id}", "ats") for event in listener.of(JobCompleted)}
    assert ats == {"1"}


async def test_putting_a_job_aside_survives_a_lost_reply(server: Server, redis_url: str) -> None:
    async def handler(job: ActiveJob) -> str:
        if job.name == "parent" and not (await job.children()).processed:
            await job.add_children([NewJob("child")])
            proxy.drop_reply("EVALSHA")  # the next one puts the parent aside
            raise WaitForChildren
        return "done"

    with FaultProxy.start(server.port) as proxy:
        async with App(proxy.url, plugins=[]) as app:
            parent = await app.queue("q").add("parent")
            async with app.worker("q", handler):
                assert await parent.result(timeout="10s") == "done"
            assert proxy.dropped == 1
            assert (await parent.refresh()).snapshot.attempts_started == 2


async def test_a_worker_waits_for_its_server(
    server: Server, redis_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Down while it idles, and down while a job runs; it says so once each time."""
    go_on = asyncio.Event()

    async def handler(job: ActiveJob) -> str:
        if job.name == "long":
            await go_on.wait()
        return "done"

    with FaultProxy.start(server.port) as proxy:
        async with App(redis_url, plugins=[]) as producer, App(proxy.url, plugins=[]) as app:
            queue = producer.queue("q")
            async with app.worker("q", handler, lock="10s") as worker:
                await (await queue.add("one")).result(timeout="5s")
                proxy.refuse()
                job = await queue.add("two")
                await asyncio.sleep(0.05)
                proxy.accept()
                await job.result(timeout="5s")
                job = await queue.add("long")
                await until(lambda: worker.running)
                proxy.refuse()
                go_on.set()
                await until(lambda: "the server does not answer" in caplog.text)
                proxy.accept()
                assert await job.result(timeout="5s") == "done"
                await until(lambda: "the server answers again" in caplog.text)
            assert (await job.refresh()).snapshot.attempts_started == 1
    said = [r for r in caplog.records if r.levelno >= logging.WARNING and r.name == "toril.worker"]
    assert len(said) <= 6, [record.getMessage() for record in said]


async def test_a_dead_connection_is_noticed(server: Server, redis_url: str) -> None:
    """The server is there, but nothing comes through any more: no reset, no reply."""
    short = "?socket_timeout=0.3"

    async def handler(job: ActiveJob) -> None: ...

    with FaultProxy.start(server.port) as proxy:
        async with (
            App(redis_url, plugins=[]) as producer,
            App(proxy.url + short, plugins=[]) as app,
        ):
            queue = producer.queue("q")
            async with app.worker("q", handler):
                await (await queue.add("one")).result(timeout="5s")
                proxy.blackhole()
                job = await queue.add("two")
                await asyncio.sleep(0.05)
                proxy.restore()
                await job.result(timeout="20s")


async def test_a_server_that_restarts_with_its_data(fresh_server: ServerFactory) -> None:
    server = fresh_server(appendonly="yes", appendfsync="always")

    async def handler(job: ActiveJob) -> None:
        await asyncio.sleep(0.001)

    async with App(server.url, plugins=[]) as app:
        queue = app.queue("q")
        await queue.add_many([NewJob("n", n) for n in range(200)])
        async with app.worker("q", handler, concurrency=5, lock="1s", stalled_interval="200ms"):
            await until(lambda: _some_completed(app, 20))
            await asyncio.to_thread(restart, server)
            await until(lambda: completed(app, 200), 20)


async def _some_completed(app: App, count: int) -> bool:
    return (await app.queue("q").counts())["completed"] >= count


async def test_a_server_that_restarts_empty(fresh_server: ServerFactory) -> None:
    """What it forgot is forgotten; the worker serves what comes."""
    server = fresh_server()
    go_on = asyncio.Event()

    async def handler(job: ActiveJob) -> None:
        if job.name == "long":
            await go_on.wait()

    async with App(server.url, plugins=[]) as app:
        queue = app.queue("q")
        await queue.add("long")
        async with app.worker("q", handler, lock="1s") as worker:
            await until(lambda: worker.running)
            await asyncio.to_thread(restart, server)
            go_on.set()
            await until(lambda: not worker.running)
            await (await queue.add("short")).result(timeout="10s")


async def test_a_full_server_still_finishes_fetches_and_fails(
    fresh_server: ServerFactory,
) -> None:
    server = fresh_server(maxmemory_policy="noeviction")

    async def handler(job: ActiveJob) -> str:
        if job.name == "bad":
            raise ValueError("no")
        return "done"

    async with App(server.url, plugins=[]) as app:
        queue = app.queue("q")
        jobs = [await queue.add("good"), await queue.add("bad", attempts=2)]
        with server.client() as client:
            client.config_set("maxmemory", 1)
        async with app.worker("q", handler):
            await until(lambda: _ended(app))
        assert [await job.state() for job in jobs] == ["completed", "failed"]


async def _ended(app: App) -> bool:
    counts = await app.queue("q").counts()
    return counts["completed"] + counts["failed"] == 2


async def test_several_workers_run_every_job_once(redis_url: str, raw: redis.Redis) -> None:
    runs: list[Any] = []

    async def handler(job: ActiveJob) -> None:
        runs.append(job.data)
        if job.attempt == 1 and isinstance(job.data, int) and job.data % 7 == 0:
            raise ValueError("again")

    async with (
        App(redis_url, plugins=[]) as one,
        App(redis_url, plugins=[]) as two,
        one.worker("q", handler, concurrency=3),
        one.worker("q", handler, concurrency=20),
        two.worker("q", handler, concurrency=1),
    ):
        await one.queue("q").add_many([NewJob("n", n, attempts=2) for n in range(700)])
        await until(lambda: completed(one, 700))
    assert sorted(runs) == sorted([*range(700), *range(0, 700, 7)])
    assert raw.llen("bull:q:active") == 0
    left: Any = raw.keys("*:lock")
    assert left == []


async def test_scripts_may_be_flushed_at_any_time(app: App, raw: redis.Redis) -> None:
    async def handler(job: ActiveJob) -> None:
        if isinstance(job.data, int) and job.data % 10 == 0:
            raw.script_flush()

    await app.queue("q").add_many([NewJob("n", n) for n in range(50)])
    await app.worker("q", handler).run(burst=True)
    assert await completed(app, 50)


async def test_connections_may_be_killed_at_any_time(app: App, raw: redis.Redis) -> None:
    async def handler(job: ActiveJob) -> None:
        if isinstance(job.data, int) and job.data % 10 == 0:
            raw.client_kill_filter(_type="normal", skipme=True)

    await app.queue("q").add_many([NewJob("n", n) for n in range(50)])
    await app.worker("q", handler, concurrency=2).run(burst=True)
    assert await completed(app, 50)


async def test_an_end_whose_reply_was_lost_for_longer_than_its_record_lives_is_told_once(
    server: Server, redis_url: str, raw: redis.Redis
) -> None:
    listener = Listener()

    async def handler(job: ActiveJob) -> str:
        proxy.drop_reply("EVALSHA", firsts=[app.runtime.scripts["tick"].sha1])
        return "done"

    with FaultProxy.start(server.port) as proxy:
        async with App(proxy.url, plugins=[listener]) as app:
            job = await app.queue("q").add("one")
            async with app.worker("q", handler, lock="100ms"):
                await until(lambda: proxy.dropped)
                proxy.refuse()
                await until(lambda: not raw.keys("bull:q:toril:call:*-*"))  # a worker's
                proxy.accept()
                await until(lambda: listener.of(JobCompleted))
            assert await job.result() == "done"
    assert [event.job.result for event in listener.of(JobCompleted)] == ["done"]
    assert raw.hget(f"bull:q:{job.id}", "ats") == "1"


async def test_a_stop_takes_no_longer_because_the_server_is_gone(
    server: Server, redis_url: str
) -> None:
    async def handler(job: ActiveJob) -> None: ...

    with FaultProxy.start(server.port) as proxy:
        async with App(proxy.url, plugins=[]) as app:
            worker = app.worker("q", handler, concurrency=10)
            running = asyncio.create_task(worker.run())
            await (await app.queue("q").add("one")).result(timeout="5s")
            proxy.blackhole()
            async with asyncio.timeout(6):
                await worker.stop(grace="100ms")
            await running
            proxy.restore()
