"""One job: how its handler's end becomes the end of its attempt."""

from __future__ import annotations

import asyncio
import json
import logging
import sys
import threading
from collections.abc import Awaitable
from datetime import timedelta
from typing import Any, cast

import pytest
import redis
from tests.worker.conftest import until

from toril.app import App
from toril.backoff import Backoff
from toril.errors import JobFailed, RetryIn, Unrecoverable, WaitAgain
from toril.limits import RateLimit
from toril.new_job import NewJob
from toril.types import Json
from toril.worker import ActiveJob


async def nothing(job: ActiveJob) -> None: ...


def hash_of(raw: redis.Redis, id: str, queue: str = "q") -> dict[str, str]:
    return cast("dict[str, str]", raw.hgetall(f"bull:{queue}:{id}"))


async def test_the_value_a_handler_returns_is_the_jobs_result(app: App, raw: redis.Redis) -> None:
    async def handler(job: ActiveJob) -> Json:
        return {"doubled": [job.data, job.data]}

    job = await app.queue("q").add("twice", {"n": 1})
    await app.worker("q", handler).run(burst=True)
    assert await job.result() == {"doubled": [{"n": 1}, {"n": 1}]}
    stored = hash_of(raw, job.id)
    assert stored["returnvalue"] == '{"doubled":[{"n":1},{"n":1}]}'
    assert (stored["atm"], stored["ats"]) == ("1", "1")
    assert raw.exists(f"bull:q:{job.id}:lock") == 0


async def test_a_worker_may_be_the_first_thing_an_app_does(redis_url: str) -> None:
    async with App(redis_url) as app:
        await app.queue("q").add("a")
    app = App(redis_url)
    try:
        await app.worker("q", nothing).run(burst=True)
        assert (await app.queue("q").counts())["completed"] == 1
    finally:
        await app.aclose()


async def test_a_handler_sees_its_job(app: App) -> None:
    seen: list[Any] = []

    async def handler(job: ActiveJob) -> None:
        seen.append((job.id, job.name, job.data, job.queue, job.attempt, job.opts["attempts"]))
        seen.append((job.parent, job.cancelled, job.shutting_down, bool(job.settings), job.ref.id))

    job = await app.queue("q").add("look", [1], attempts=3)
    await app.worker("q", handler).run(burst=True)
    assert seen == [
        (job.id, "look", [1], "q", 1, 3),
        (None, False, False, False, job.id),
    ]


async def test_a_plain_handler_runs_in_a_thread_and_can_act(app: App, raw: redis.Redis) -> None:
    def handler(job: ActiveJob) -> Json:
        assert threading.current_thread() is not threading.main_thread()
        assert job.sync.log("first") == 1
        assert job.sync.log("second") == 2
        job.sync.progress({"done": 3})
        job.sync.update({"n": 2})
        return job.data

    job = await app.queue("q").add("sync", {"n": 1})
    await app.worker("q", handler).run(burst=True)
    assert await job.result() == {"n": 2}
    assert await job.logs() == ("first", "second")
    assert json.loads(hash_of(raw, job.id)["progress"]) == {"done": 3}
    assert json.loads(hash_of(raw, job.id)["data"]) == {"n": 2}


async def test_plain_handlers_run_side_by_side(app: App) -> None:
    together = threading.Barrier(4, timeout=5)

    def handler(job: ActiveJob) -> None:
        together.wait()

    await app.queue("q").add_many([NewJob("n", n) for n in range(4)])
    await app.worker("q", handler, concurrency=4).run(burst=True)
    assert (await app.queue("q").counts())["completed"] == 4


async def test_asynchronous_handlers_run_side_by_side_up_to_the_concurrency(app: App) -> None:
    running = most = 0

    async def handler(job: ActiveJob) -> None:
        nonlocal running, most
        running += 1
        most = max(most, running)
        await asyncio.sleep(0.01)
        running -= 1

    await app.queue("q").add_many([NewJob("n", n) for n in range(20)])
    await app.worker("q", handler, concurrency=5).run(burst=True)
    assert most == 5
    assert (await app.queue("q").counts())["completed"] == 20


async def test_an_object_with_an_asynchronous_call_runs_on_the_loop(app: App) -> None:
    class Handler:
        async def __call__(self, job: ActiveJob) -> str:
            return threading.current_thread().name

    job = await app.queue("q").add("object")
    await app.worker("q", Handler()).run(burst=True)
    assert await job.result() == threading.current_thread().name


async def test_what_a_plain_function_returns_is_awaited_on_the_loop(app: App) -> None:
    async def later(job: ActiveJob) -> str:
        return threading.current_thread().name

    def handler(job: ActiveJob) -> Awaitable[str]:
        return later(job)

    job = await app.queue("q").add("later")
    await app.worker("q", handler).run(burst=True)
    assert await job.result() == threading.current_thread().name


async def test_jobs_run_in_the_order_in_which_they_were_added(app: App) -> None:
    seen: list[Json] = []

    async def handler(job: ActiveJob) -> None:
        seen.append(job.data)

    await app.queue("q").add_many([NewJob("n", n) for n in range(250)])
    await app.worker("q", handler).run(burst=True)
    assert seen == list(range(250))


async def test_a_failed_attempt_is_followed_by_another(app: App, raw: redis.Redis) -> None:
    attempts: list[int] = []

    async def handler(job: ActiveJob) -> str:
        attempts.append(job.attempt)
        if job.attempt < 3:
            raise ValueError(f"not yet {job.attempt}")
        return "done"

    job = await app.queue("q").add("retry", attempts=3)
    await app.worker("q", handler).run(burst=True)
    assert attempts == [1, 2, 3]
    assert await job.result() == "done"
    stored = hash_of(raw, job.id)
    traces = json.loads(stored["stacktrace"])
    assert len(traces) == 2
    assert traces[1].endswith("ValueError: not yet 2\n")
    assert traces[1].startswith('Traceback (most recent call last):\n  File "' + __file__)


async def test_the_last_attempt_fails_the_job(app: App, raw: redis.Redis) -> None:
    async def handler(job: ActiveJob) -> None:
        raise KeyError

    job = await app.queue("q").add("bad", attempts=2)
    await app.worker("q", handler).run(burst=True)
    with pytest.raises(JobFailed, match="KeyError"):
        await job.result()
    stored = hash_of(raw, job.id)
    assert stored["failedReason"] == "KeyError"  # no message: the class
    assert stored["atm"] == "2"
    assert raw.zscore("bull:q:failed", job.id) == float(stored["finishedOn"])


async def test_stack_traces_are_limited_by_the_jobs_own_limit(app: App, raw: redis.Redis) -> None:
    async def handler(job: ActiveJob) -> None:
        raise ValueError(str(job.attempt))

    some = await app.queue("q").add("some", attempts=4, stack_trace_limit=2)
    none = await app.queue("q").add("none", attempts=2, stack_trace_limit=0)
    await app.worker("q", handler).run(burst=True)
    traces = json.loads(hash_of(raw, some.id)["stacktrace"])
    assert [trace.splitlines()[-1] for trace in traces] == ["ValueError: 3", "ValueError: 4"]
    assert json.loads(hash_of(raw, none.id)["stacktrace"]) == []


async def test_a_backoff_delays_the_next_attempt(app: App, raw: redis.Redis) -> None:
    async def handler(job: ActiveJob) -> None:
        raise ValueError("no")

    before = app.runtime.clock.now_ms()
    fixed = await app.queue("q").add("f", attempts=3, backoff=Backoff.fixed("1h"))
    growing = await app.queue("q").add("e", attempts=3, backoff=Backoff.exponential("1h"))
    raw.hset(f"bull:q:{growing.id}", "atm", 1)
    await app.worker("q", handler).run(burst=True)
    for job, hours in ((fixed, 1), (growing, 2)):
        score = raw.zscore("bull:q:delayed", job.id)
        assert isinstance(score, float)
        assert 0 <= score // 4096 - before - hours * 3_600_000 < 5000
        assert hash_of(raw, job.id)["delay"] == str(hours * 3_600_000)


async def test_a_delayed_attempt_runs_when_it_is_due(app: App) -> None:
    times: list[float] = []

    async def handler(job: ActiveJob) -> None:
        times.append(asyncio.get_running_loop().time())
        if job.attempt == 1:
            raise ValueError("again")

    async with app.worker("q", handler):
        job = await app.queue("q").add("b", attempts=2, backoff=Backoff.fixed("60ms"))
        await job.result(timeout="5s")
    assert 0.055 < times[1] - times[0] < 1


async def test_custom_backoffs(app: App, raw: redis.Redis) -> None:
    asked: list[Any] = []

    def patient(attempt: int, error: BaseException, job: ActiveJob) -> timedelta | str | None:
        asked.append((attempt, str(error), job.name))
        return None if job.name == "hopeless" else timedelta(hours=2)

    def broken(attempt: int, error: BaseException, job: ActiveJob) -> str:
        raise RuntimeError("oh")

    async def handler(job: ActiveJob) -> None:
        raise ValueError("no")

    queue = app.queue("q")
    hopeful = await queue.add("hopeful", attempts=9, backoff=Backoff.custom("patient"))
    hopeless = await queue.add("hopeless", attempts=9, backoff=Backoff.custom("patient"))
    others = [
        await queue.add("broken", attempts=9, backoff=Backoff.custom("broken", "1h")),
        await queue.add("unknown", attempts=9, backoff=Backoff.custom("unknown", "1h")),
    ]
    worker = app.worker("q", handler, backoffs={"patient": patient, "broken": broken})
    await worker.run(burst=True)
    assert asked == [(1, "no", "hopeful"), (1, "no", "hopeless")]
    assert hash_of(raw, hopeful.id)["delay"] == "7200000"
    assert await hopeless.state() == "failed"
    assert [hash_of(raw, job.id)["delay"] for job in others] == ["3600000", "3600000"]


async def test_an_unrecoverable_error_fails_at_once(app: App) -> None:
    async def handler(job: ActiveJob) -> None:
        raise Unrecoverable("never")

    job = await app.queue("q").add("u", attempts=5)
    await app.worker("q", handler).run(burst=True)
    with pytest.raises(JobFailed, match="never"):
        await job.result()
    assert (await job.refresh()).attempts_made == 1


async def test_retry_in_counts_no_attempt(app: App, raw: redis.Redis) -> None:
    runs = 0

    async def handler(job: ActiveJob) -> str:
        nonlocal runs
        runs += 1
        if runs < 4:
            raise RetryIn("10ms")
        return f"attempt {job.attempt}"

    async with app.worker("q", handler):
        job = await app.queue("q").add("later", attempts=2)
        assert await job.result(timeout="5s") == "attempt 1"
    stored = hash_of(raw, job.id)
    assert (stored["atm"], stored["ats"]) == ("1", "4")
    assert "failedReason" not in stored


async def test_wait_again_gives_the_job_to_any_worker(app: App, raw: redis.Redis) -> None:
    seen: list[str] = []

    async def handler(job: ActiveJob) -> str:
        seen.append(job.name)
        if len(seen) <= 2:
            raise WaitAgain
        return f"attempt {job.attempt}"

    queue = app.queue("q")
    first, plain = await queue.add("first", priority=3), await queue.add("second", priority=3)
    await app.worker("q", handler, concurrency=1).run(burst=True)
    assert seen == ["first", "first", "first", "second"]
    assert await first.result() == await plain.result() == "attempt 1"
    stored = hash_of(raw, first.id)
    assert (stored["atm"], stored["ats"]) == ("1", "3")
    assert "failedReason" not in stored


async def test_retry_in_with_a_senseless_delay_is_a_failure(app: App) -> None:
    async def handler(job: ActiveJob) -> None:
        raise RetryIn("soon")

    job = await app.queue("q").add("later")
    await app.worker("q", handler).run(burst=True)
    with pytest.raises(JobFailed, match="'soon' is not a duration"):
        await job.result()


@pytest.mark.parametrize("result", [object(), float("nan"), 2**60, "\ud800", {1: 2}, {"a": {b""}}])
async def test_a_result_that_cannot_be_stored_is_a_failure(app: App, result: Any) -> None:
    async def handler(job: ActiveJob) -> Any:
        return result

    job = await app.queue("q").add("odd")
    await app.worker("q", handler).run(burst=True)
    with pytest.raises(JobFailed, match="the result"):
        await job.result()


async def test_whatever_a_handler_raises_is_its_jobs_failure(app: App) -> None:
    class Silent(Exception):
        def __str__(self) -> str:
            raise RuntimeError("cannot be written")

    errors: dict[str, BaseException] = {
        "exit": SystemExit("leave"),
        "cancel": asyncio.CancelledError("mine"),
        "silent": Silent(),
        "surrogate": ValueError("lone \ud800"),
        "group": ExceptionGroup("two", [ValueError("a"), KeyError("b")]),
    }

    async def handler(job: ActiveJob) -> None:
        raise errors[job.name]

    jobs = [await app.queue("q").add(name) for name in errors]
    await app.worker("q", handler).run(burst=True)
    reasons = [(await job.refresh()).reason for job in jobs]
    assert reasons == ["leave", "mine", "Silent", "lone ?", "two (2 sub-exceptions)"]


async def test_whatever_a_thread_raises_is_its_jobs_failure(app: App) -> None:
    errors: dict[str, BaseException] = {
        "stop": StopIteration(1),
        "exit": SystemExit("leave"),
        "recursion": RecursionError("deep"),
    }

    def handler(job: ActiveJob) -> None:
        raise errors[job.name]

    jobs = [await app.queue("q").add(name) for name in errors]
    await app.worker("q", handler).run(burst=True)
    reasons = [(await job.refresh()).reason for job in jobs]
    assert reasons == ["the handler raised StopIteration", "leave", "deep"]


@pytest.mark.parametrize(
    ("field", "garbage"),
    [
        ("data", "{no json"),
        ("data", "[" * 100_000 + "]" * 100_000),
        ("data", b"\xff\xfe"),
        ("opts", "{no json"),
        ("opts", "[1]"),
    ],
)
async def test_a_job_that_cannot_be_decoded_fails(
    app: App, raw: redis.Redis, field: str, garbage: str
) -> None:
    async def handler(job: ActiveJob) -> None:
        ran.append(job.id)

    ran: list[str] = []
    bad = await app.queue("q").add("bad", attempts=5)
    raw.hset(f"bull:q:{bad.id}", field, garbage)
    good = await app.queue("q").add("good")
    await app.worker("q", handler).run(burst=True)
    assert ran == [good.id]
    assert await bad.state() == "failed"
    assert f"the stored {field!r} is not" in hash_of(raw, bad.id)["failedReason"]
    assert raw.exists(f"bull:q:{bad.id}:lock") == 0


@pytest.mark.parametrize("field", ["parent", "progress", "stacktrace", "atm", "priority", "toril"])
async def test_other_garbled_fields_do_not_keep_a_job_from_running(
    app: App, raw: redis.Redis, field: str
) -> None:
    async def handler(job: ActiveJob) -> str:
        if job.attempt == 1:
            raise ValueError("once")
        return "done"

    job = await app.queue("q").add("odd", attempts=2)
    raw.hset(f"bull:q:{job.id}", field, "{garbage")
    await app.worker("q", handler).run(burst=True)
    assert await job.result() == "done"


async def test_an_id_without_a_job_is_dropped_and_reported(
    app: App, raw: redis.Redis, caplog: pytest.LogCaptureFixture
) -> None:
    raw.lpush("bull:q:wait", "ghost")
    raw.hset("bull:q:stub", "stc", 1)
    raw.lpush("bull:q:wait", "stub")
    job = await app.queue("q").add("real")
    with caplog.at_level(logging.WARNING):
        await app.worker("q", nothing).run(burst=True)
    assert await job.state() == "completed"
    assert raw.llen("bull:q:active") == 0
    assert "q/ghost does not exist any more" in caplog.text
    assert raw.exists("bull:q:ghost", "bull:q:stub") == 0


async def test_a_deferred_failure_is_carried_out_without_running(
    app: App, raw: redis.Redis
) -> None:
    ran: list[str] = []

    async def handler(job: ActiveJob) -> None:
        ran.append(job.id)

    job = await app.queue("q").add("doomed", attempts=5)
    raw.hset(f"bull:q:{job.id}", mapping={"defa": "decided elsewhere", "data": "{garbage"})
    await app.worker("q", handler).run(burst=True)
    assert ran == []
    stored = hash_of(raw, job.id)
    assert await job.state() == "failed"
    assert stored["failedReason"] == "decided elsewhere"
    assert "defa" not in stored
    assert len(json.loads(stored["stacktrace"])) == 1


async def test_a_burst_runs_what_is_added_meanwhile(app: App) -> None:
    queue = app.queue("q")

    async def handler(job: ActiveJob) -> None:
        if isinstance(job.data, int) and job.data:
            await queue.add("less", job.data - 1)

    await queue.add("more", 5)
    await app.worker("q", handler).run(burst=True)
    assert (await queue.counts())["completed"] == 6


async def test_a_waiting_worker_takes_a_new_job_at_once(app: App) -> None:
    async with app.worker("q", nothing, concurrency=3):
        for _ in range(5):
            job = await app.queue("q").add("one")
            await job.result(timeout="2s")  # much less than the longest wait


async def test_a_delayed_job_runs_when_it_is_due(app: App) -> None:
    loop = asyncio.get_running_loop()
    async with app.worker("q", nothing):
        for delay in ("80ms", "40ms"):
            started = loop.time()
            job = await app.queue("q").add("later", delay=delay)
            await job.result(timeout="5s")
            took = loop.time() - started
            assert int(delay[:2]) / 1000 - 0.005 < took < 1


async def test_priorities(app: App) -> None:
    seen: list[str] = []

    async def handler(job: ActiveJob) -> None:
        seen.append(job.name)

    for name, priority in (("low", 9), ("high", 1), ("none", 0), ("middle", 5)):
        await app.queue("q").add(name, priority=priority or None)
    await app.worker("q", handler).run(burst=True)
    assert seen == ["none", "high", "middle", "low"]


async def test_a_paused_queue_is_not_served_until_it_is_resumed(app: App) -> None:
    queue = app.queue("q")
    await queue.pause()
    job = await queue.add("one")
    async with app.worker("q", nothing):
        await asyncio.sleep(0.05)
        assert await job.state() == "waiting"
        await queue.resume()
        await job.result(timeout="2s")


async def test_the_queues_concurrency_limits_all_workers(app: App, raw: redis.Redis) -> None:
    raw.hset("bull:q:meta", "concurrency", 2)
    running = most = 0

    async def handler(job: ActiveJob) -> None:
        nonlocal running, most
        running += 1
        most = max(most, running)
        await asyncio.sleep(0.002)
        running -= 1

    queue = app.queue("q")
    await queue.add_many([NewJob("n", n) for n in range(30)])
    async with (
        app.worker("q", handler, concurrency=5),
        app.worker("q", handler, concurrency=5),
    ):
        await until(lambda: _all_done(app, 30))
    assert most == 2


async def test_a_rate_limit_spreads_the_jobs(app: App) -> None:
    loop = asyncio.get_running_loop()
    times: list[float] = []

    async def handler(job: ActiveJob) -> None:
        times.append(loop.time())

    await app.queue("q").add_many([NewJob("n", n) for n in range(6)])
    async with app.worker("q", handler, concurrency=10, limiter=RateLimit(2, "100ms")):
        await until(lambda: _all_done(app, 6))
    assert len(times) == 6
    for first, third in zip(times, times[2:], strict=False):
        assert third - first > 0.07


async def _all_done(app: App, count: int) -> bool:
    return (await app.queue("q").counts())["completed"] == count


async def test_large_results_are_finished_in_several_calls(app: App, raw: redis.Redis) -> None:
    async def handler(job: ActiveJob) -> str:
        return "x" * 100_000

    await app.queue("q").add_many([NewJob("n", n) for n in range(12)])
    await app.worker("q", handler, concurrency=12).run(burst=True)
    assert await _all_done(app, 12)
    sizes = [len(raw.hget(f"bull:q:{i}", "returnvalue") or "") for i in _finished(raw)]
    assert sizes == [100_002] * 12


def _finished(raw: redis.Redis) -> list[str]:
    return cast("list[str]", raw.zrange("bull:q:completed", 0, -1))


async def test_more_jobs_than_one_call_can_carry(app: App) -> None:
    started, all_run = 0, asyncio.Event()

    async def handler(job: ActiveJob) -> None:
        nonlocal started
        started += 1
        if started == 250:
            all_run.set()
        await all_run.wait()

    await app.queue("q").add_many([NewJob("n", n) for n in range(250)])
    await app.worker("q", handler, concurrency=300).run(burst=True)
    assert await _all_done(app, 250)


async def test_the_methods_of_sync_refuse_to_block_the_loop(app: App) -> None:
    async def handler(job: ActiveJob) -> None:
        job.sync.log("x")

    job = await app.queue("q").add("wrong")
    await app.worker("q", handler).run(burst=True)
    with pytest.raises(JobFailed, match="would block the event loop"):
        await job.result()


async def test_a_workers_name_is_on_its_connection_and_its_jobs(app: App, raw: redis.Redis) -> None:
    def names() -> set[str]:
        clients: Any = raw.client_list()
        return {client["name"] for client in clients}

    async with app.worker("q", nothing, name="w1"), app.worker("other", nothing):
        job = await app.queue("q").add("named")
        await job.result(timeout="5s")
        await until(lambda: {"bull:cQ==:w:w1", "bull:b3RoZXI="} <= names())
    assert hash_of(raw, job.id)["pb"] == "w1"


def test_nothing_is_started_by_making_a_worker() -> None:
    before = threading.active_count()
    worker = App("redis://127.0.0.1:1").worker("q", nothing, concurrency=3)
    assert (worker.queue, worker.concurrency, worker.running, worker.given_back) == ("q", 3, (), 0)
    assert threading.active_count() == before
    assert "asyncio.events" in sys.modules
