"""Limits as a worker keeps them. Other libraries beside it: `tests.interop.test_limits`."""

from __future__ import annotations

import asyncio
import time
from datetime import timedelta
from typing import Any, cast

import pytest
import redis
from tests.worker.conftest import Listener, until

from toril import RateLimit, RateLimited, WaitAgain
from toril.app import App
from toril.errors import JobFailed
from toril.new_job import NewJob
from toril.worker import ActiveJob

Q = "bull:q"


async def completed(app: App, count: int) -> bool:
    return (await app.queue("q").counts())["completed"] == count


class TestRateLimited:
    async def test_the_job_comes_again_when_the_time_is_over(
        self, heard: App, raw: redis.Redis, listener: Listener
    ) -> None:
        times: list[float] = []

        async def handler(job: ActiveJob) -> str:
            times.append(time.monotonic())
            if len(times) == 1:
                raise RateLimited("150ms")
            return f"attempt {job.attempt}"

        queue = heard.queue("q")
        job = await queue.add("first")
        await queue.add("second")
        await heard.worker("q", handler).run(burst=True)
        assert await job.result() == "attempt 1"
        assert times[1] - times[0] >= 0.149
        assert times[2] - times[1] < 0.1
        stored = cast("dict[str, str]", raw.hgetall(f"{Q}:{job.id}"))
        assert (stored["atm"], stored["ats"]) == ("1", "2")
        assert "failedReason" not in stored
        assert [type(event).__name__ for event in listener.events] == [
            "JobSaved", "JobSaved", "JobCompleted", "JobCompleted",
        ]  # fmt: skip

    @pytest.mark.parametrize("concurrency", [2, 10])
    async def test_no_slot_of_its_worker_begins_a_job_meanwhile(
        self, app: App, concurrency: int
    ) -> None:
        began: list[tuple[float, Any]] = []
        raised = 0.0

        async def handler(job: ActiveJob) -> None:
            nonlocal raised
            began.append((time.monotonic(), job.data))
            if not raised:
                raised = time.monotonic()
                raise RateLimited("200ms")
            await asyncio.sleep(0.02)

        queue = app.queue("q")
        async with app.worker("q", handler, concurrency=concurrency):
            await queue.add("n", -1)
            await until(lambda: raised)
            await until(queue.rate_limit_ttl)
            for n in range(20):
                await queue.add("n", n)
            await until(lambda: completed(app, 21))
        assert [data for at, data in began if at - raised < 0.15] == [-1]
        assert began[1][1] == -1, "it was put back before the others"

    async def test_a_worker_with_a_limiter_waits_for_another_one(self, app: App) -> None:
        began: list[float] = []

        async def limited(job: ActiveJob) -> None:
            raise RateLimited("200ms")

        async def other(job: ActiveJob) -> None:
            began.append(time.monotonic())

        await app.queue("q").add("n")
        async with app.worker("q", limited) as first:
            await until(app.queue("q").rate_limit_ttl)
            raised = time.monotonic()
            await first.stop()
            async with app.worker("q", other, limiter=RateLimit(100, "1s")):
                await until(lambda: began)
        assert began[0] - raised > 0.15

    async def test_in_a_plain_handler(self, app: App) -> None:
        runs: list[int] = []

        def handler(job: ActiveJob) -> None:
            runs.append(1)
            if len(runs) == 1:
                raise RateLimited(timedelta(milliseconds=20))

        await app.queue("q").add("n")
        await app.worker("q", handler).run(burst=True)
        assert len(runs) == 2

    @pytest.mark.parametrize("senseless", ["soon", "0s", 5])
    async def test_a_senseless_time_is_a_failure(self, app: App, senseless: Any) -> None:
        async def handler(job: ActiveJob) -> None:
            raise RateLimited(senseless)

        job = await app.queue("q").add("n")
        await app.worker("q", handler).run(burst=True)
        with pytest.raises(JobFailed):
            await job.result()


class TestHeldBack:
    async def test_it_looks_again_after_the_longest_delay(self, app: App) -> None:
        began: list[float] = []

        async def handler(job: ActiveJob) -> None:
            began.append(time.monotonic())

        queue = app.queue("q")
        await queue.rate_limit("1h")
        await queue.add("n")
        limits: dict[str, Any] = {"limiter": RateLimit(5, "1s"), "max_rate_limit_delay": "50ms"}
        async with app.worker("q", handler, **limits):
            await asyncio.sleep(0.05)
            assert not began
            assert await queue.remove_rate_limit()
            freed = time.monotonic()
            await until(lambda: began)
        assert began[0] - freed < 1

    async def test_one_who_knows_no_limit_goes_on(self, app: App) -> None:
        queue = app.queue("q")

        async def handler(job: ActiveJob) -> None: ...

        await queue.rate_limit("1h")
        await queue.add("n")
        await app.worker("q", handler).run(burst=True)
        assert await completed(app, 1)


class TestTheQueuesOwn:
    async def test_its_rate_goes_before_the_workers(self, app: App) -> None:
        queue = app.queue("q")
        await queue.set_limits(rate=RateLimit(100, "1h"))
        await queue.add_many([NewJob("n", n) for n in range(50)])

        async def handler(job: ActiveJob) -> None: ...

        worker = app.worker("q", handler, concurrency=5, limiter=RateLimit(1, "1h"))
        await worker.run(burst=True)
        assert await completed(app, 50)

    async def test_more_concurrency_is_taken_up_at_once(self, app: App) -> None:
        queue, gate = app.queue("q"), asyncio.Event()
        began: list[int] = []

        async def handler(job: ActiveJob) -> None:
            began.append(1)
            await gate.wait()

        await queue.set_limits(concurrency=1)
        await queue.add_many([NewJob("n", n) for n in range(5)])
        async with app.worker("q", handler, concurrency=2), app.worker("q", handler, concurrency=2):
            await until(lambda: began)
            assert await queue.is_maxed()
            await queue.set_limits(concurrency=4)
            changed = time.monotonic()
            await until(lambda: len(began) == 4)
            assert time.monotonic() - changed < 2, "nobody had to wait for the next look"
            gate.set()
            await until(lambda: completed(app, 5))

    async def test_a_job_given_back_makes_room_for_another_worker(self, app: App) -> None:
        queue = app.queue("q")
        ran: list[str] = []

        async def gives_back(job: ActiveJob) -> None:
            raise WaitAgain

        async def handler(job: ActiveJob) -> None:
            ran.append(job.id)

        await queue.set_limits(concurrency=1)
        await queue.add_many([NewJob("n", n) for n in range(3)])
        async with app.worker("q", handler, concurrency=2):
            async with app.worker("q", gives_back):
                await asyncio.sleep(0.05)
            await until(lambda: len(ran) == 3)


@pytest.mark.parametrize(
    ("options", "kind"),
    [
        ({"limiter": (1, "1s")}, TypeError),
        ({"limiter": 5}, TypeError),
        ({"max_rate_limit_delay": "0s"}, ValueError),
        ({"rate": (1, "1s")}, TypeError),
    ],
)
def test_options_that_are_none(redis_url: str, options: Any, kind: type[Exception]) -> None:
    with pytest.raises(kind):
        App(redis_url, plugins=[]).worker("q", lambda job: None, **options)
