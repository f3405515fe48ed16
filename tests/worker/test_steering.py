"""Steering a worker while it runs: how many jobs at once, and whether it picks up any."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import pytest
from tests.worker.conftest import until

from toril import ActiveJob, App, NewJob


class Gate:
    """A handler whose jobs end when they are let through; counts those inside."""

    def __init__(self) -> None:
        self.inside = self.most = self.done = 0
        self.open = asyncio.Event()

    async def __call__(self, job: ActiveJob) -> None:
        self.inside += 1
        self.most = max(self.most, self.inside)
        await self.open.wait()
        self.inside -= 1
        self.done += 1


async def filled(app: App, number: int) -> None:
    await app.queue("q").add_many([NewJob("n", n) for n in range(number)])


async def test_a_greater_concurrency_counts_at_once(app: App) -> None:
    gate = Gate()
    await filled(app, 20)
    worker = app.worker("q", gate, concurrency=2)
    async with worker:
        await until(lambda: gate.inside == 2)
        worker.concurrency = 12
        assert worker.concurrency == 12
        await until(lambda: gate.inside == 12)
        gate.open.set()
        await until(lambda: gate.done == 20)
    assert gate.most == 12


async def test_with_a_smaller_concurrency_jobs_beyond_it_end_first(app: App) -> None:
    gate = Gate()
    await filled(app, 12)
    worker = app.worker("q", gate, concurrency=10)
    async with worker:
        await until(lambda: gate.inside == 10)
        worker.concurrency = 1
        gate.most = 0
        gate.open.set()
        await until(lambda: gate.done == 12)
    assert gate.most == 1


async def test_threads_grow_with_the_concurrency(app: App) -> None:
    together = threading.Barrier(5, timeout=10)
    started = threading.Event()

    def handler(job: ActiveJob) -> None:
        started.set()
        together.wait()

    await filled(app, 5)
    worker = app.worker("q", handler, concurrency=1)
    async with worker:
        await until(started.is_set)
        worker.concurrency = 5
        await until(lambda: not worker.running)
    assert (await app.queue("q").counts())["completed"] == 5


@pytest.mark.parametrize(("value", "error"), [(0, ValueError), ("3", TypeError), (True, TypeError)])
def test_a_concurrency_is_checked(value: Any, error: type[Exception]) -> None:
    worker = App("redis://127.0.0.1:1").worker("q", print, concurrency=3)
    with pytest.raises(error, match="concurrency"):
        worker.concurrency = value
    assert worker.concurrency == 3


async def test_a_paused_worker_finishes_what_it_runs_and_picks_up_nothing(app: App) -> None:
    gate = Gate()
    await filled(app, 3)
    worker = app.worker("q", gate, concurrency=2)
    async with worker:
        await until(lambda: gate.inside == 2)
        pausing = asyncio.create_task(worker.pause())
        await until(lambda: worker.is_paused)
        assert not pausing.done()
        assert worker.is_running
        gate.open.set()
        await asyncio.wait_for(pausing, 10)
        assert (gate.done, worker.running) == (2, ())
        counts = await app.queue("q").counts()
        assert (counts["waiting"], counts["completed"]) == (1, 2)
        worker.resume()
        await until(lambda: gate.done == 3)
    assert not worker.is_paused
    assert not worker.is_running


async def test_pausing_need_not_wait_and_is_kept_for_the_next_run(app: App) -> None:
    gate = Gate()
    gate.open.set()
    worker = app.worker("q", gate)
    await worker.pause()
    await filled(app, 1)
    other = app.queue("q")
    async with worker:
        assert worker.is_paused
        await worker.pause(wait=False)
        worker.look()
        await app.worker("elsewhere", gate).run(burst=True)
        assert (await other.counts())["waiting"] == 1
        worker.resume()
        await until(lambda: gate.done == 1)


async def test_a_name_is_written_to_the_job_and_to_the_connection(app: App, raw: Any) -> None:
    async def handler(job: ActiveJob) -> None: ...

    def named() -> bool:
        return any(client["name"] == "bull:cQ==:w:oven-1" for client in raw.client_list())

    job = await app.queue("q").add("n")
    async with app.worker("q", handler, name="oven-1"):
        await job.result(timeout="10s")
        await until(named)
    assert (await job.refresh()).processed_by == "oven-1"
