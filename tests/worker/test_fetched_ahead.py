"""The fetch that an idle worker sends behind its wait: whatever breaks, each job runs once."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from typing import Any, cast

import pytest
import redis
from tests.support.proxy import FaultProxy
from tests.support.server import Server
from tests.worker.conftest import until

from toril.app import App
from toril.clock import ManualClock, SystemClock
from toril.job import Job
from toril.worker import ActiveJob, Worker


class Runs:
    """A handler that notes what it was given."""

    def __init__(self) -> None:
        self.data: list[Any] = []

    async def __call__(self, job: ActiveJob) -> None:
        self.data.append(job.data)


@pytest.fixture
def runs() -> Runs:
    return Runs()


@pytest.fixture
async def producer(redis_url: str) -> AsyncIterator[App]:
    """It reaches the server whatever stands between the worker and the server."""
    async with App(redis_url, plugins=[]) as made:
        yield made


def waiting(raw: redis.Redis, workers: int = 1) -> Callable[[], bool]:
    """Whether so many workers wait for a job."""
    return lambda: raw.info("clients")["blocked_clients"] == workers


def scripts(raw: redis.Redis) -> int:
    """How many scripts have been carried out."""
    return int(raw.info("commandstats").get("cmdstat_evalsha", {"calls": 0})["calls"])


async def ran_once(app: App, raw: redis.Redis, runs: Runs, number: int) -> None:
    await until(lambda: _completed(app, number))
    assert sorted(runs.data) == list(range(number))
    ids: Any = raw.zrange("bull:q:completed", 0, -1)
    assert {raw.hget(f"bull:q:{id}", "ats") for id in ids} == {"1"}
    assert not raw.llen("bull:q:active")


async def _completed(app: App, number: int) -> bool:
    return (await app.queue("q").counts())["completed"] == number


async def test_a_job_costs_an_idle_worker_two_scripts(
    app: App, raw: redis.Redis, runs: Runs
) -> None:
    """It is picked up by one, at the time at which it was added, and finished by the other."""
    queue = app.queue("q")
    jobs: list[Job] = []
    spent: list[int] = []
    async with app.worker("q", runs, concurrency=10):
        for number in range(4):
            await until(waiting(raw))
            before = scripts(raw)
            jobs.append(await queue.add("n", number))
            await until(lambda: _completed(app, len(jobs)))
            await until(waiting(raw))
            spent.append(scripts(raw) - before)
    # One of them adds. A service may fall in between.
    assert min(spent) == 3, spent
    stored = (await jobs[-1].refresh()).snapshot
    assert stored.processed is not None
    assert -50 <= stored.processed - stored.created < 1000


async def test_with_many_jobs_the_first_comes_alone(app: App, raw: redis.Redis, runs: Runs) -> None:
    async with app.worker("q", runs, concurrency=10):
        await until(waiting(raw))
        for number in range(40):
            await app.queue("q").add("n", number)
        await ran_once(app, raw, runs, 40)


async def test_no_more_jobs_run_than_there_are_slots(app: App, raw: redis.Redis) -> None:
    inside = most = 0
    go_on = asyncio.Event()

    async def handler(job: ActiveJob) -> None:
        nonlocal inside, most
        inside += 1
        most = max(most, inside)
        await go_on.wait()
        inside -= 1

    async with app.worker("q", handler, concurrency=2):
        for _ in range(4):
            await app.queue("q").add("n")
        await until(lambda: inside == 2)
        go_on.set()
        await until(lambda: _completed(app, 4))
    assert most == 2


@pytest.mark.parametrize("lost", ["reply", "command", "late command"])
async def test_a_fetch_whose_connection_breaks(
    server: Server, producer: App, raw: redis.Redis, runs: Runs, lost: str
) -> None:
    with FaultProxy.start(server.port) as proxy:
        lose = {
            "reply": proxy.drop_reply,
            "command": proxy.drop_command,
            "late command": proxy.hold_command,
        }[lost]
        async with App(proxy.url, plugins=[]) as app, app.worker("q", runs):
            await until(waiting(raw))
            lose("EVALSHA", 2)  # the first ends job 0, the second waits for job 1
            await producer.queue("q").add("n", 0)
            await until(waiting(raw))
            await producer.queue("q").add("n", 1)
            await until(lambda: proxy.dropped)
            await until(lambda: _completed(producer, 2))
            if lost == "late command":
                job = await producer.queue("q").add("n", 2)
                await job.result(timeout="5s")
                raw.hset("bull:q:meta", "paused", 1)
                proxy.deliver()  # finds that it comes too late
                raw.hdel("bull:q:meta", "paused")
        await ran_once(producer, raw, runs, 3 if lost == "late command" else 2)


async def test_a_connection_that_is_cut_while_waiting(
    server: Server, producer: App, raw: redis.Redis, runs: Runs
) -> None:
    with FaultProxy.start(server.port) as proxy:
        async with App(proxy.url, plugins=[]) as app, app.worker("q", runs):
            for number in range(5):
                await until(waiting(raw))
                proxy.cut()
                await producer.queue("q").add("n", number)
            await ran_once(producer, raw, runs, 5)


async def test_scripts_that_are_forgotten_while_waiting(
    app: App, raw: redis.Redis, runs: Runs
) -> None:
    async with app.worker("q", runs):
        for number in range(5):
            await until(waiting(raw))
            raw.script_flush()
            await app.queue("q").add("n", number)
            await until(lambda: _completed(app, len(runs.data)))
        await ran_once(app, raw, runs, 5)


async def test_a_stop_leaves_no_job_behind(app: App, raw: redis.Redis, runs: Runs) -> None:
    """Neither locked, nor run although nobody waits for it."""
    for number in range(20):
        async with app.worker("q", runs) as worker:
            await until(waiting(raw))
            stopping = asyncio.create_task(worker.stop())
            await app.queue("q").add("n", number)
            await stopping
        assert not raw.llen("bull:q:active")
    await app.worker("q", runs).run(burst=True)
    await ran_once(app, raw, runs, 20)


async def test_an_idle_worker_stops_at_once(app: App, raw: redis.Redis, runs: Runs) -> None:
    async with app.worker("q", runs) as worker:
        await until(waiting(raw))
        started = time.monotonic()
        await worker.stop()
        assert time.monotonic() - started < 1


async def test_a_pause_ends_the_wait(app: App, raw: redis.Redis, runs: Runs) -> None:
    queue = app.queue("q")
    async with app.worker("q", runs) as worker:
        await until(waiting(raw))
        await worker.pause()
        job = await queue.add("n", 0)
        assert raw.zcard("bull:q:marker"), "nobody has taken it"
        assert await job.state() == "waiting"
        worker.resume()
        await ran_once(app, raw, runs, 1)


async def test_a_paused_queue_hands_out_nothing(app: App, raw: redis.Redis, runs: Runs) -> None:
    queue = app.queue("q")
    async with app.worker("q", runs):
        await until(waiting(raw))
        await queue.pause()
        job = await queue.add("n", 0)
        raw.zadd("bull:q:marker", {"0": 0})
        await until(lambda: not raw.zcard("bull:q:marker"))
        assert await job.state() == "waiting"
        await queue.resume()
        await ran_once(app, raw, runs, 1)


@pytest.mark.parametrize("concurrency", [1, 3])
async def test_a_delayed_job_is_waited_for_without_asking_again_and_again(
    app: App, raw: redis.Redis, runs: Runs, concurrency: int
) -> None:
    async with app.worker("q", runs, concurrency=concurrency):
        await until(waiting(raw))
        before = scripts(raw)
        job = await app.queue("q").add("n", 0, delay="300ms")
        await ran_once(app, raw, runs, 1)
        assert scripts(raw) - before <= 10
    stored = (await job.refresh()).snapshot
    assert stored.processed is not None
    assert 300 <= stored.processed - stored.created < 600


async def test_a_worker_that_was_frozen_runs_no_job_that_it_lost(
    app: App, raw: redis.Redis, runs: Runs
) -> None:
    """Its job was handed to it meanwhile, and its lock is gone."""
    job = await app.queue("q").add("n", 0, delay="1h")
    async with app.worker("q", runs, lock="300ms", stalled_interval="100ms", max_stalled=2):
        await until(waiting(raw))
        raw.zadd("bull:q:delayed", {job.id: 0})
        raw.zadd("bull:q:marker", {"0": 0})
        while not raw.exists(f"bull:q:{job.id}:lock"):  # this is the worker's loop, too
            time.sleep(0.001)  # noqa: ASYNC251
        while raw.exists(f"bull:q:{job.id}:lock"):
            time.sleep(0.001)  # noqa: ASYNC251
        await until(lambda: _completed(app, 1))
    assert runs.data == [0]
    ends: Any = raw.xrange("bull:q:events")
    told = [fields["event"] for _, fields in ends]
    assert told.count("completed") == 1


async def test_several_idle_workers_share_what_comes(app: App, raw: redis.Redis) -> None:
    ran: list[tuple[int, Any]] = []

    def worker(number: int) -> Worker:
        async def handler(job: ActiveJob) -> None:
            ran.append((number, job.data))

        return app.worker("q", handler, concurrency=2)

    async with worker(0), worker(1), worker(2):
        for number in range(30):
            await until(waiting(raw, 3))
            await (await app.queue("q").add("n", number)).result(timeout="5s")
    assert sorted(data for _, data in ran) == list(range(30))
    assert {number for number, _ in ran} == {0, 1, 2}, "who waits longest is next"


async def test_a_clock_that_somebody_sets_is_asked_when_the_job_is_there(
    redis_url: str, raw: redis.Redis, runs: Runs
) -> None:
    """Its time cannot be told from the server's, so nothing is sent ahead."""
    clock = ManualClock(1_790_000_000_000)
    async with App(redis_url, plugins=[], clock=clock) as app, app.worker("q", runs):
        await until(waiting(raw))
        clock.advance("1h")
        job = await app.queue("q").add("n", 0)
        await ran_once(app, raw, runs, 1)
        assert (await job.refresh()).snapshot.processed == clock.now_ms()


async def test_the_servers_clock_may_be_wrong(
    app: App, raw: redis.Redis, runs: Runs, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Times are those of the worker's clock: the server's is an hour behind."""
    queue = app.queue("q")
    clock = cast("SystemClock", app.runtime.clock)
    now_ms, now_us = clock.now_ms, clock.now_us
    monkeypatch.setattr(clock, "now_ms", lambda: now_ms() + 3_600_000)
    monkeypatch.setattr(clock, "now_us", lambda: now_us() + 3_600_000_000)
    async with app.worker("q", runs):
        await until(waiting(raw))
        job = await queue.add("n", 0)
        await ran_once(app, raw, runs, 1)
    stored = (await job.refresh()).snapshot
    assert stored.processed is not None
    assert -50 <= stored.processed - stored.created < 1000
