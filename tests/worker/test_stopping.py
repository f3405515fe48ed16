"""Stopping: what runs may finish, and what does not is given back."""

from __future__ import annotations

import asyncio
import functools
import threading
import time
from typing import Any, cast

import pytest
import redis
from tests.worker.conftest import until

from toril.app import App
from toril.errors import ConfigurationError, ServerUnavailable
from toril.new_job import NewJob
from toril.worker import ActiveJob, Handler, Worker


async def started(worker: Worker, count: int = 1) -> None:
    await until(lambda: len(worker.running) == count)


async def nothing_awaited(worker: Worker) -> None:
    """Until the worker no longer waits for a job."""
    session = worker._session
    assert session is not None
    await until(lambda: not session.slots.reserved)


async def test_a_stop_lets_running_jobs_finish_and_takes_no_others(app: App) -> None:
    go_on = asyncio.Event()

    async def handler(job: ActiveJob) -> bool:
        await go_on.wait()
        return job.shutting_down

    queue = app.queue("q")
    jobs = await queue.add_many([NewJob("n", n) for n in range(3)])
    worker = app.worker("q", handler, concurrency=2)
    running = asyncio.create_task(worker.run())
    await started(worker, 2)
    stopping = asyncio.create_task(worker.stop())
    await asyncio.sleep(0.02)
    assert not stopping.done()
    go_on.set()
    await stopping
    await running
    assert [await job.state() for job in jobs] == ["completed", "completed", "waiting"]
    assert await jobs[0].result() is True
    assert worker.given_back == 0


async def test_what_does_not_finish_in_time_is_given_back(app: App, raw: redis.Redis) -> None:
    cancelled: list[str] = []

    async def handler(job: ActiveJob) -> None:
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            cancelled.append(job.id)
            assert job.cancelled
            raise

    queue = app.queue("q")
    jobs = await queue.add_many([NewJob("n", n) for n in range(3)])
    async with app.worker("q", handler, concurrency=2, grace="30ms") as worker:
        await started(worker, 2)
    assert sorted(cancelled) == sorted(job.id for job in jobs[:2])
    assert worker.given_back == 2
    for job in jobs:
        assert await job.state() == "waiting"
        assert raw.exists(f"bull:q:{job.id}:lock") == 0
    assert [raw.hget(f"bull:q:{job.id}", "atm") for job in jobs[:2]] == [None, None]
    # They run next, before what was waiting.
    order: Any = raw.lrange("bull:q:wait", 0, -1)
    assert order[0] == jobs[2].id


async def test_a_job_given_back_keeps_its_priority(app: App, raw: redis.Redis) -> None:
    async def handler(job: ActiveJob) -> None:
        await asyncio.sleep(60)

    job = await app.queue("q").add("p", priority=7)
    async with app.worker("q", handler, grace="0s") as worker:
        await started(worker)
    assert await job.state() == "prioritized"
    assert raw.zscore("bull:q:prioritized", job.id) == 7 * 2**32


async def test_a_second_stop_shortens_the_first(app: App) -> None:
    async def handler(job: ActiveJob) -> None:
        await asyncio.sleep(60)

    job = await app.queue("q").add("long")
    worker = app.worker("q", handler)
    running = asyncio.create_task(worker.run())
    await started(worker)
    first = asyncio.create_task(worker.stop(grace="50s"))
    await asyncio.sleep(0.02)
    await worker.stop(grace="0s")
    await first
    await running
    assert await job.state() == "waiting"


async def test_a_handler_that_finishes_although_cancelled_has_finished(app: App) -> None:
    async def handler(job: ActiveJob) -> str:
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            return "tidy"
        return ""

    job = await app.queue("q").add("tidy")
    async with app.worker("q", handler, grace="0s") as worker:
        await started(worker)
    assert await job.result() == "tidy"
    assert worker.given_back == 0


async def test_a_handler_that_ignores_its_cancellation_is_given_back_all_the_same(
    app: App, raw: redis.Redis
) -> None:
    release = asyncio.Event()

    async def handler(job: ActiveJob) -> str:
        while not release.is_set():
            try:
                await release.wait()
            except asyncio.CancelledError:
                continue
        return "too late"

    job = await app.queue("q").add("stubborn")
    began = time.monotonic()
    async with app.worker("q", handler, grace="0s") as worker:
        await started(worker)
    assert time.monotonic() - began < 3
    assert worker.given_back == 1
    release.set()
    assert await job.state() == "waiting"
    await asyncio.sleep(0.02)
    assert raw.hget(f"bull:q:{job.id}", "returnvalue") is None


async def test_a_thread_that_does_not_end_is_left_and_its_job_given_back(app: App) -> None:
    release = threading.Event()
    saw: list[bool] = []

    def handler(job: ActiveJob) -> None:
        release.wait(10)
        saw.append(job.cancelled)

    job = await app.queue("q").add("blocked")
    async with app.worker("q", handler, grace="0s") as worker:
        await started(worker)
    assert worker.given_back == 1
    assert await job.state() == "waiting"
    release.set()
    await until(lambda: saw == [True])


async def test_cancelling_run_gives_back_at_once(app: App) -> None:
    async def handler(job: ActiveJob) -> None:
        await asyncio.sleep(60)

    job = await app.queue("q").add("long")
    worker = app.worker("q", handler)
    running = asyncio.create_task(worker.run())
    await started(worker)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert await job.state() == "waiting"
    assert worker.running == ()


async def test_quiet_takes_no_more_jobs_but_goes_on(app: App) -> None:
    async def handler(job: ActiveJob) -> None: ...

    queue = app.queue("q")
    async with app.worker("q", handler) as worker:
        await (await queue.add("one")).result(timeout="2s")
        worker.quiet()
        await nothing_awaited(worker)
        job = await queue.add("two")
        await asyncio.sleep(0.05)
        assert await job.state() == "waiting"
    assert await job.state() == "waiting"


async def test_a_worker_can_run_again_but_not_twice_at_once(app: App) -> None:
    async def handler(job: ActiveJob) -> None: ...

    worker = app.worker("q", handler)
    for _ in range(2):
        async with worker:
            with pytest.raises(RuntimeError, match="running already"):
                await worker.run()
            with pytest.raises(RuntimeError, match="cannot be configured"):
                worker.configure(concurrency=2)
            job = await app.queue("q").add("one")
            await job.result(timeout="2s")
    await worker.stop()  # not running: nothing to do


async def test_a_stopped_worker_leaves_nothing_behind(app: App, raw: redis.Redis) -> None:
    async def handler(job: ActiveJob) -> None: ...

    async with app.worker("q", handler, concurrency=5):
        await (await app.queue("q").add("one")).result(timeout="2s")
    await until(lambda: all("toril-locks" not in one.name for one in threading.enumerate()))
    others = asyncio.all_tasks() - {asyncio.current_task()}
    assert [task for task in others if "worker" in repr(task.get_coro())] == []
    left: Any = raw.keys("bull:q:toril:call:*")
    assert all(0 < raw.pttl(key) <= 120_000 for key in left)


async def test_a_marker_taken_by_a_stopping_worker_is_left_to_another(app: App) -> None:
    async def handler(job: ActiveJob) -> None: ...

    queue = app.queue("q")
    for _ in range(20):
        worker = app.worker("q", handler)
        async with app.worker("q", handler), worker:
            stopping = asyncio.create_task(worker.stop())
            job = await queue.add("one")
            await job.result(timeout="2s")  # not only after the longest wait
            await stopping


async def test_no_server_is_an_error_at_the_start() -> None:
    async def handler(job: ActiveJob) -> None: ...

    async with App("redis://127.0.0.1:1?socket_connect_timeout=0.1", plugins=[]) as app:
        app.runtime.executor._patience = type(app.runtime.executor._patience)(total=0.1)
        with pytest.raises(ServerUnavailable):
            await app.worker("q", handler).run()
        with pytest.raises(ServerUnavailable):
            async with app.worker("q", handler):
                raise AssertionError("it must not get here")


@pytest.mark.parametrize(
    ("options", "error", "text"),
    [
        ({"concurency": 2}, TypeError, "did you mean 'concurrency'"),
        ({"concurrency": 0}, ValueError, "at least 1"),
        ({"concurrency": "5"}, TypeError, "whole number"),
        ({"lock": 30}, TypeError, "^lock: .* does not say its unit"),
        ({"timeout": "soon"}, ValueError, "^timeout: 'soon' is not a duration"),
        ({"metrics": 5}, TypeError, "^metrics: "),
        ({"lock": "1ms"}, ValueError, "at least"),
        ({"name": "two words"}, ValueError, "without blanks"),
        ({"name": 5}, TypeError, "name is a text, not 5"),
        ({"limiter": (1, "1s")}, TypeError, "a RateLimit"),
    ],
)
def test_wrong_options(options: dict[str, Any], error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=text):
        App("redis://x").worker("q", print, **options)


def test_wrong_arguments() -> None:
    app = App("redis://x")
    with pytest.raises(ConfigurationError):
        app.worker("a:b", print)
    with pytest.raises(TypeError, match="a function of one argument"):
        app.worker("q", cast(Handler, "handler"))


async def _takes_nothing() -> None: ...


async def _takes_two(first: object, second: object) -> None: ...


@pytest.mark.parametrize("handler", [_takes_nothing, _takes_two])
def test_a_handler_that_cannot_take_a_job(handler: Any) -> None:
    with pytest.raises(TypeError, match=r"one argument, the job; .* is not"):
        App("redis://x").worker("q", handler)


@pytest.mark.parametrize("handler", [print, int, functools.partial(_takes_two, 1)])
def test_handlers_of_many_kinds(handler: Any) -> None:
    assert App("redis://x").worker("q", handler).queue == "q"
