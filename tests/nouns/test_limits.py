from __future__ import annotations

from datetime import timedelta
from typing import Any, cast

import pytest
import redis

from toril import App, RateLimit
from toril.limits import QueueLimits

Q = "bull:mail"


class TestRateLimit:
    def test_what_it_says(self) -> None:
        limit = RateLimit(100, "1m 30s")
        assert (limit.max, limit.per, limit.per_ms) == (100, timedelta(seconds=90), 90_000)
        assert str(limit) == "100 per 1m 30s"
        assert limit == RateLimit(100, timedelta(seconds=90))

    @pytest.mark.parametrize(
        ("max", "per", "kind"),
        [
            (0, "1s", ValueError),
            (-1, "1s", ValueError),
            (1, "0s", ValueError),
            (1, "soon", ValueError),
            (1.5, "1s", TypeError),
            (True, "1s", TypeError),
            (1, 1000, TypeError),
        ],
    )
    def test_what_it_refuses(self, max: Any, per: Any, kind: type[Exception]) -> None:
        with pytest.raises(kind):
            RateLimit(max, per)


class TestSetting:
    async def test_what_is_not_named_stays(self, app: App, raw: redis.Redis) -> None:
        queue = app.queue("mail")
        assert await queue.limits() == QueueLimits(None, None)
        await queue.set_limits(concurrency=5)
        await queue.set_limits(rate=RateLimit(10, "1s"))
        assert await queue.limits() == QueueLimits(5, RateLimit(10, "1s"))
        await queue.set_limits(concurrency="none")
        assert await queue.limits() == QueueLimits(None, RateLimit(10, "1s"))
        await queue.set_limits(rate="none")
        assert await queue.limits() == QueueLimits()
        assert raw.hgetall(f"{Q}:meta").keys() == {"opts.maxLenEvents"}

    @pytest.mark.parametrize(
        ("said", "kind"),
        [
            ({"concurrency": 0}, ValueError),
            ({"concurrency": "two"}, TypeError),
            ({"rate": (1, "1s")}, TypeError),
            ({"rate": "some"}, TypeError),
        ],
    )
    async def test_bad_values(self, app: App, said: Any, kind: type[Exception]) -> None:
        with pytest.raises(kind):
            await app.queue("mail").set_limits(**said)

    async def test_what_another_program_garbled_limits_nothing(
        self, app: App, raw: redis.Redis
    ) -> None:
        raw.hset(f"{Q}:meta", mapping={"concurrency": "x", "max": "5"})
        assert await app.queue("mail").limits() == QueueLimits()
        raw.hset(f"{Q}:meta", mapping={"max": "x", "duration": "1000"})
        assert await app.queue("mail").limits() == QueueLimits()


async def test_is_maxed(app: App, raw: redis.Redis) -> None:
    queue = app.queue("mail")
    raw.lpush(f"{Q}:active", "a", "b")
    assert not await queue.is_maxed()
    for concurrency, maxed in ((3, False), (2, True), (1, True)):
        await queue.set_limits(concurrency=concurrency)
        assert await queue.is_maxed() is maxed


class TestHoldingBack:
    async def test_for_a_while(self, app: App) -> None:
        queue = app.queue("mail")
        assert await queue.rate_limit_ttl() is None
        await queue.rate_limit("10s")
        left = await queue.rate_limit_ttl()
        assert left is not None
        assert timedelta(seconds=8) < left <= timedelta(seconds=10)
        assert await queue.rate_limit_ttl(1000) is not None
        assert await queue.remove_rate_limit()
        assert await queue.rate_limit_ttl() is None
        assert not await queue.remove_rate_limit()

    async def test_a_window_that_is_not_full_holds_nobody_back(
        self, app: App, raw: redis.Redis
    ) -> None:
        queue = app.queue("mail")
        raw.set(f"{Q}:limiter", 3, px=5000)
        assert await queue.rate_limit_ttl() is not None, "nobody says how many there may be"
        assert await queue.rate_limit_ttl(4) is None
        assert await queue.rate_limit_ttl(3) is not None
        await queue.set_limits(rate=RateLimit(4, "5s"))
        assert await queue.rate_limit_ttl() is None
        raw.incr(f"{Q}:limiter")
        assert await queue.rate_limit_ttl() is not None

    @pytest.mark.parametrize(("time", "kind"), [("0s", ValueError), (5, TypeError)])
    async def test_bad_times(self, app: App, time: Any, kind: type[Exception]) -> None:
        with pytest.raises(kind):
            await app.queue("mail").rate_limit(cast(str, time))


def test_the_same_without_asyncio(redis_url: str) -> None:
    with App(redis_url, plugins=[]).sync as app:
        queue = app.queue("mail")
        queue.set_limits(concurrency=1, rate=RateLimit(2, "1s"))
        assert queue.limits() == QueueLimits(1, RateLimit(2, "1s"))
        assert not queue.is_maxed()
        queue.rate_limit("10s")
        assert queue.rate_limit_ttl() is not None
        assert queue.remove_rate_limit()
