"""Handlers that are ended before their time: cancelled by somebody, or over their time-out."""

from __future__ import annotations

import asyncio
import threading
import time
from typing import cast

import pytest
import redis
from tests.worker.conftest import Listener, until

from toril import ActiveJob, App, Backoff, Every, Job, JobFailed, NewJob, Unrecoverable
from toril.errors import InvalidJob, JobCancelled, JobTimedOut, LockLost
from toril.job_events import JobAttemptFailed


async def test_a_cancelled_handler_gets_the_reason_and_its_attempt_fails_with_it(
    app: App,
) -> None:
    seen: list[tuple[object, ...]] = []

    async def handler(job: ActiveJob) -> None:
        seen.append(("begun", job.cancel_reason))
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError as error:
            seen.append((error.args, job.cancelled, job.cancel_reason))
            raise

    job = await app.queue("q").add("long")
    worker = app.worker("q", handler)
    async with worker:
        await until(lambda: worker.running and seen)
        assert not worker.cancel("another", "no")
        assert worker.cancel(job.id, "the order was withdrawn")
        with pytest.raises(JobFailed, match="the order was withdrawn"):
            await job.result(timeout="10s")
    assert seen == [
        ("begun", None),
        (("the order was withdrawn",), True, "the order was withdrawn"),
    ]
    await job.refresh()
    assert "asyncio.sleep(60)" in job.snapshot.stacktrace[0]
    assert job.snapshot.stacktrace[0].rstrip().endswith(": the order was withdrawn")


async def test_attempts_that_are_left_are_made_after_a_cancellation(
    heard: App, listener: Listener
) -> None:
    async def handler(job: ActiveJob) -> int:
        if job.attempt == 1:
            worker.cancel(job.id)
            await asyncio.sleep(60)
        return job.attempt

    job = await heard.queue("q").add("twice", attempts=3)
    worker = heard.worker("q", handler)
    async with worker:
        assert await job.result(timeout="10s") == 2
    (failed,) = listener.of(JobAttemptFailed)
    assert (failed.final, failed.reason) == (False, "cancelled")


async def test_what_a_cancelled_handler_makes_of_it_counts(app: App) -> None:
    async def handler(job: ActiveJob) -> str:
        worker.cancel(job.id)
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            if job.name == "for good":
                raise Unrecoverable("withdrawn") from None
        return "half of it"

    jobs = [await app.queue("q").add(name, attempts=3) for name in ("result", "for good")]
    worker = app.worker("q", handler)
    async with worker:
        assert await jobs[0].result(timeout="10s") == "half of it"
        with pytest.raises(JobFailed, match="withdrawn"):
            await jobs[1].result(timeout="10s")


async def test_all_jobs_can_be_cancelled(app: App) -> None:
    async def handler(job: ActiveJob) -> None:
        await asyncio.sleep(60)

    await app.queue("q").add_many([NewJob("n", n) for n in range(5)])
    worker = app.worker("q", handler, concurrency=5)
    assert worker.cancel_all("nobody runs") == 0
    async with worker:
        await until(lambda: len(worker.running) == 5)
        assert worker.cancel_all("enough") == 5
        await until(lambda: not worker.running)
    assert (await app.queue("q").counts())["failed"] == 5


async def test_a_thread_is_told_and_goes_on(app: App) -> None:
    told: list[str | None] = []

    def handler(job: ActiveJob) -> str:
        started.set()
        while not job.cancelled:
            time.sleep(0.001)
        told.append(job.cancel_reason)
        return "an end of its own"

    started = threading.Event()
    job = await app.queue("q").add("thread")
    worker = app.worker("q", handler)
    async with worker:
        await until(started.is_set)
        assert worker.cancel(job.id, "stop it")
        assert await job.result(timeout="10s") == "an end of its own"
    assert told == ["stop it"]


async def test_a_handler_over_its_time_is_cancelled_and_its_attempt_fails(
    heard: App, listener: Listener
) -> None:
    ended: list[str | None] = []

    async def handler(job: ActiveJob) -> str:
        if job.attempt == 2:
            return "in time"
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            ended.append(job.cancel_reason)
        return "too late to count"

    errors: list[BaseException] = []

    def backoff(attempt: int, error: BaseException, job: ActiveJob) -> str:
        errors.append(error)
        return "0s"

    job = await heard.queue("q").add("slow", attempts=2, backoff=Backoff.custom("own"))
    async with heard.worker("q", handler, timeout="20ms", backoffs={"own": backoff}):
        assert await job.result(timeout="10s") == "in time"
    reason = "timed out: its handler ran for longer than 20ms"
    assert ended == [reason]
    assert [type(error) for error in errors] == [JobTimedOut]
    (failed,) = listener.of(JobAttemptFailed)
    assert failed.reason == reason


async def test_a_jobs_own_time_out_goes_before_its_workers(app: App, raw: redis.Redis) -> None:
    async def handler(job: ActiveJob) -> str:
        await asyncio.sleep(0.05)
        return "done"

    queue = app.queue("q")
    patient = await queue.add("patient", timeout="10s")
    hasty = await queue.add("hasty", timeout="1ms")
    other = await queue.add("other")
    async with app.worker("q", handler, timeout="10ms"):
        assert await patient.result(timeout="10s") == "done"
        for job in (hasty, other):
            with pytest.raises(JobFailed, match="timed out"):
                await job.result(timeout="10s")
    assert '"toril.timeout":10000' in str(raw.hget(f"bull:q:{patient.id}", "opts"))


async def test_the_runs_of_a_schedule_have_its_time_out(app: App) -> None:
    async def handler(job: ActiveJob) -> None:
        await asyncio.sleep(60)

    await app.queue("q").schedule("often", Every("1h"), "n", timeout="10ms")
    async with app.worker("q", handler):

        async def failed() -> list[Job]:
            return [job async for job in app.queue("q").jobs("failed")]

        (job,) = await until(failed)
    assert job.reason == "timed out: its handler ran for longer than 10ms"


async def test_a_time_out_is_checked_when_it_is_said(app: App) -> None:
    with pytest.raises(InvalidJob, match="longer than nothing"):
        await app.queue("q").add("n", timeout="0s")
    with pytest.raises(ValueError, match="timeout must be at least 1 ms"):
        app.worker("q", print, timeout="0s")
    with pytest.raises(ValueError, match="max_started_attempts must be at least 1"):
        app.worker("q", print, max_started_attempts=0)


async def test_a_thread_over_its_time_holds_its_job_until_it_returns(app: App) -> None:
    go_on = threading.Event()

    def handler(job: ActiveJob) -> str:
        while not job.cancelled:
            time.sleep(0.001)
        go_on.wait(10)
        return "too late"

    job = await app.queue("q").add("thread")
    worker = app.worker("q", handler, timeout="10ms")
    async with worker:
        (held,) = await until(worker._held)
        await until(lambda: held.cancelled)
        assert await job.state() == "active"
        go_on.set()
        with pytest.raises(JobFailed, match="timed out: its handler ran for longer than 10ms"):
            await job.result(timeout="10s")


async def test_a_job_that_came_too_often_is_not_run(
    heard: App, listener: Listener, raw: redis.Redis
) -> None:
    async def handler(job: ActiveJob) -> None:
        raise AssertionError("it must not run")

    job = await heard.queue("q").add("n", attempts=9)
    raw.hset(f"bull:q:{job.id}", "ats", 2)
    async with heard.worker("q", handler, max_started_attempts=2):
        with pytest.raises(JobFailed, match="job started more than allowable"):
            await job.result(timeout="10s")
    (failed,) = listener.of(JobAttemptFailed)
    assert (failed.final, failed.cause) == (True, "deferred")


async def test_a_lock_is_extended_by_hand_and_renewals_do_not_shorten_it(
    app: App, raw: redis.Redis
) -> None:
    seen: list[int] = []

    async def handler(job: ActiveJob) -> None:
        key = f"bull:q:{job.id}:lock"
        await job.extend_lock("1m")
        seen.append(raw.pttl(key))
        late = time.monotonic() + 0.5  # several renewals
        await until(lambda: time.monotonic() > late)
        seen.append(raw.pttl(key))
        with pytest.raises(ValueError, match="more than nothing"):
            await job.extend_lock("0s")
        raw.set(key, "somebody else")
        with pytest.raises(LockLost):
            await job.extend_lock("1m")

    await app.queue("q").add("n")
    await app.worker("q", handler, lock="400ms").run(burst=True)
    assert seen[0] > 59_000
    assert 59_000 < seen[1] < seen[0]


async def test_a_plain_handler_extends_its_lock(app: App, raw: redis.Redis) -> None:
    def handler(job: ActiveJob) -> int:
        job.sync.extend_lock("1m")
        return raw.pttl(f"bull:q:{job.id}:lock")

    job = await app.queue("q").add("n")
    await app.worker("q", handler).run(burst=True)
    assert cast(int, await job.result()) > 59_000


def test_the_errors_name_their_job() -> None:
    error = JobCancelled("no", queue="q", job_id="7")
    assert (error.queue, error.job_id, str(error)) == ("q", "7", "no")
