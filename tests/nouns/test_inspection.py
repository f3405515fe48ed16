"""What a queue has done, and who works on it."""

from __future__ import annotations

from contextlib import nullcontext as _nothing
from typing import Any

import pytest
import redis

from toril import ActiveJob, App
from toril.plugins import ManualClock

Q = "bull:mail"


async def once_a_minute(job: ActiveJob) -> None:
    if job.data == "bad":
        raise RuntimeError(job.data)


class TestMetrics:
    async def test_a_worker_counts_if_it_is_told_to(self, redis_url: str, raw: redis.Redis) -> None:
        clock = ManualClock()
        async with App(redis_url, clock=clock, plugins=[]) as app:
            queue = app.queue("mail")
            async with app.worker("mail", once_a_minute, metrics="1h"):
                for data in ("good", "bad", "good"):
                    job = await queue.add("x", data)
                    with pytest.raises(Exception, match="bad") if data == "bad" else _nothing():
                        await job.result(timeout="5s")
                    clock.advance("1m")
            completed, failed = await queue.metrics(), await queue.metrics("failed")
        assert (completed.total, completed.newest, completed.points) == (2, 1, (0, 1))
        assert (failed.total, failed.newest, failed.points) == (1, 1, ())
        assert failed.outcome == "failed"
        assert raw.llen(f"{Q}:metrics:completed:data") == 2

    async def test_a_worker_counts_nothing_otherwise(
        self, redis_url: str, raw: redis.Redis
    ) -> None:
        async with App(redis_url, plugins=[]) as app, app.worker("mail", once_a_minute):
            job = await app.queue("mail").add("x")
            await job.result(timeout="5s")
            assert (await app.queue("mail").metrics()).total == 0
        assert not raw.keys("*metrics*")

    async def test_some_points(self, redis_url: str, raw: redis.Redis) -> None:
        raw.rpush(f"{Q}:metrics:completed:data", 5, 4, 3, 2)
        with App(redis_url, plugins=[]).sync as app:
            found = app.queue("mail").metrics("completed", 1, 2)
        assert (found.points, found.minutes) == ((4, 3), 4)

    @pytest.mark.parametrize(
        ("value", "error"), [("30s", ValueError), ("101d", ValueError), (100, TypeError)]
    )
    def test_what_a_worker_cannot_be_told(
        self, redis_url: str, value: Any, error: type[Exception]
    ) -> None:
        with pytest.raises(error):
            App(redis_url, plugins=[]).worker("mail", once_a_minute, metrics=value)

    async def test_other_outcomes_have_none(self, redis_url: str) -> None:
        other: Any = "delayed"
        async with App(redis_url, plugins=[]) as app:
            with pytest.raises(ValueError, match="delayed"):
                await app.queue("mail").metrics(other)
