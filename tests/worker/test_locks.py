"""Locks: renewed whatever a handler does to the loop; and what follows a loss."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Sequence
from typing import Any, cast

import pytest
import redis
from tests.support.proxy import FaultProxy
from tests.support.server import Server
from tests.worker.conftest import until

from toril.app import App
from toril.errors import LockLost, ServerUnavailable
from toril.snapshots import JobSnapshot
from toril.worker import ActiveJob
from toril.worker.active_job import JobHost
from toril.worker.locks import LockKeeper


async def test_a_handler_that_blocks_the_loop_keeps_its_job(
    app: App, redis_url: str, raw: redis.Redis, caplog: pytest.LogCaptureFixture
) -> None:
    runs = 0

    async def handler(job: ActiveJob) -> None:
        nonlocal runs
        runs += 1
        other.start()
        time.sleep(0.9)  # noqa: ASYNC251 - that is what is tested

    job = await app.queue("q").add("blocks")
    options: dict[str, Any] = {"lock": "200ms", "stalled_interval": "100ms"}
    # The second worker would find the job stalled: it has a loop of its own.
    other = threading.Thread(target=_work_elsewhere, args=(redis_url, 1.2))
    with caplog.at_level(logging.WARNING):
        async with app.worker("q", handler, **options):
            assert await job.result(timeout="5s") is None
    other.join()
    assert runs == 1
    assert raw.hget(f"bull:q:{job.id}", "stc") is None
    assert "the event loop has been blocked" in caplog.text
    assert "time.sleep(0.9)" in caplog.text  # where it was


def _work_elsewhere(url: str, seconds: float) -> None:
    async def handler(job: ActiveJob) -> str:
        return "stolen"

    async def work() -> None:
        async with App(url, plugins=[]) as app:
            worker = app.worker("q", handler, lock="200ms", stalled_interval="100ms")
            async with worker:
                worker.quiet()
                await asyncio.sleep(seconds)

    asyncio.run(work())


async def test_a_lost_lock_cancels_the_handler_and_its_end_is_dropped(
    app: App, raw: redis.Redis, caplog: pytest.LogCaptureFixture
) -> None:
    ended: list[str] = []

    async def handler(job: ActiveJob) -> None:
        raw.set(f"bull:q:{job.id}:lock", "somebody else")
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            ended.append("cancelled")
            with pytest.raises(LockLost):
                await job.log("too late")
            raise

    job = await app.queue("q").add("stolen")
    async with app.worker("q", handler, lock="200ms") as worker:
        await until(lambda: ended)
        await until(lambda: worker.running == ())
        assert await job.state() == "active"
        assert raw.get(f"bull:q:{job.id}:lock") == "somebody else"
    assert "its lock was lost" in caplog.text
    assert worker.given_back == 0


async def test_everything_that_writes_is_refused_without_the_lock(
    app: App, raw: redis.Redis
) -> None:
    refused: list[str] = []

    async def handler(job: ActiveJob) -> None:
        raw.set(f"bull:q:{job.id}:lock", "somebody else")
        with pytest.raises(LockLost):
            await job.progress(1)
        for write in (job.log("x"), job.update({}), job.add_children([])):
            with pytest.raises(LockLost):
                await write
        refused.append(job.id)

    job = await app.queue("q").add("stolen", {"n": 1})
    async with app.worker("q", handler):
        await until(lambda: refused)
    stored: Any = raw.hgetall(f"bull:q:{job.id}")
    assert "progress" not in stored
    assert stored["data"] == '{"n":1}'
    assert raw.exists(f"bull:q:{job.id}:logs") == 0
    assert await job.state() == "active"


async def test_a_finish_without_the_lock_is_refused_and_the_worker_goes_on(
    app: App, raw: redis.Redis, caplog: pytest.LogCaptureFixture
) -> None:
    async def handler(job: ActiveJob) -> str:
        if job.name == "stolen":
            raw.delete(f"bull:q:{job.id}:lock")
        if job.name == "gone":
            raw.delete(f"bull:q:{job.id}")
        return "done"

    queue = app.queue("q")
    jobs = [await queue.add(name) for name in ("stolen", "gone", "fine")]
    await app.worker("q", handler, concurrency=3).run(burst=True)
    assert await jobs[2].result() == "done"
    assert await jobs[0].state() == "active"
    assert caplog.text.count("its end was refused") == 2


async def test_a_job_that_is_fetched_again_has_a_new_token(app: App, raw: redis.Redis) -> None:
    tokens: list[str] = []

    async def handler(job: ActiveJob) -> None:
        tokens.append(job.token)
        assert raw.get(f"bull:q:{job.id}:lock") == job.token
        if len(tokens) < 3:
            raise ValueError("again")

    await app.queue("q").add("retry", attempts=3)
    await app.worker("q", handler).run(burst=True)
    assert len(set(tokens)) == 3


class Renewals:
    """Stands for the server: which locks are lost, and whether it answers."""

    def __init__(self) -> None:
        self.asked: list[list[str]] = []
        self.gone: set[str] = set()
        self.error: Exception | None = None
        self.lost: list[str] = []
        self.now = 0.0
        self.keeper = LockKeeper(10.0, self.renew, self.note, lambda: None, now=lambda: self.now)

    def renew(self, jobs: Sequence[ActiveJob]) -> set[str]:
        self.asked.append([job.id for job in jobs])
        if self.error is not None:
            raise self.error
        return self.gone

    def note(self, jobs: Sequence[ActiveJob]) -> None:
        self.lost += [job.id for job in jobs]

    def pass_time(self, seconds: float, *, beat: bool = True) -> None:
        for _ in range(round(seconds / self.keeper.period)):
            self.now += self.keeper.period
            if beat:
                self.keeper.beat()
            self.keeper.run_once()


def job(id: str) -> ActiveJob:
    return ActiveJob(cast(JobHost, None), JobSnapshot("q", id, {}), "token")


def test_what_is_held_is_renewed_in_parts() -> None:
    renewals = Renewals()
    renewals.pass_time(10)
    assert renewals.asked == []
    renewals.keeper.hold([job(str(n)) for n in range(600)])
    renewals.pass_time(2.5)
    assert [len(part) for part in renewals.asked] == [250, 250, 100]
    renewals.keeper.hold([])
    renewals.pass_time(10)
    assert len(renewals.asked) == 3


def test_lost_locks_are_told() -> None:
    renewals = Renewals()
    renewals.keeper.hold([job("a"), job("b")])
    renewals.gone = {"b"}
    renewals.pass_time(2.5)
    assert renewals.lost == ["b"]


def test_a_blocked_loop_keeps_its_jobs_for_five_locks_only(
    caplog: pytest.LogCaptureFixture,
) -> None:
    renewals = Renewals()
    renewals.keeper.hold([job("a")])
    renewals.pass_time(50, beat=False)
    assert len(renewals.asked) == 20
    renewals.pass_time(50, beat=False)
    assert len(renewals.asked) == 20  # taken for dead
    assert ["blocked for 7.5 s" in record.getMessage() for record in caplog.records] == [True]
    renewals.pass_time(2.5)
    assert len(renewals.asked) == 21


def test_a_gap_is_reported(caplog: pytest.LogCaptureFixture) -> None:
    renewals = Renewals()
    renewals.keeper.hold([job("a")])
    renewals.pass_time(2.5)
    renewals.now += 6
    renewals.keeper.beat()
    renewals.keeper.run_once()
    assert "locks were not renewed for 6.0 s" in caplog.text


def test_a_server_that_does_not_answer_for_one_lock_has_lost_all() -> None:
    renewals = Renewals()
    renewals.keeper.hold([job("a"), job("b")])
    renewals.error = ServerUnavailable("down")
    renewals.pass_time(10)
    assert renewals.lost == []
    renewals.pass_time(2.5)
    assert renewals.lost == ["a", "b"]


def test_an_unforeseen_error_does_not_end_the_renewal(caplog: pytest.LogCaptureFixture) -> None:
    renewals = Renewals()
    renewals.keeper.hold([job("a")])
    renewals.error = RuntimeError("what is this")
    renewals.pass_time(5)
    assert len(renewals.asked) == 2
    assert "renewing locks broke" in caplog.text


async def test_locks_are_renewed_through_a_short_outage(
    server: Server, redis_url: str, raw: redis.Redis
) -> None:
    async def handler(job: ActiveJob) -> str:
        await asyncio.sleep(0.6)
        return "done"

    with FaultProxy.start(server.port) as proxy:
        async with App(proxy.url, plugins=[]) as app:
            job = await app.queue("q").add("one")
            async with app.worker("q", handler, lock="400ms") as worker:
                await until(lambda: worker.running)
                for _ in range(4):
                    await asyncio.sleep(0.05)
                    proxy.cut()
                assert await job.result(timeout="5s") == "done"
    assert raw.hget(f"bull:q:{job.id}", "ats") == "1"
