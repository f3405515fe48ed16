"""What retention promises beside the rules themselves: on time, complete, and also when the server
is full. (Bounded: `tests/benchmarks/test_bounded.py`; crash-safe: `tests/crashes`; flows:
`tests/model/test_flows_and_cleaning.py`.)
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any, cast

import pytest
import redis

from tests.conftest import ServerFactory
from tests.support.invariants import check
from toril import ActiveJob, App, Flow, NewJob, Unrecoverable
from toril.errors import ServerFull
from toril.plugins import ManualClock
from toril_plugins import Ceiling, Keep, Retention

PERIOD = 200  # ms
LATE = 2000
"""Milliseconds that a busy machine may take for what is to be done at once."""


async def work(job: ActiveJob) -> Any:
    if job.name == "fail":
        raise Unrecoverable("as asked")
    await job.log("a line")
    return job.data


async def until(holds: Callable[[], object], seconds: float = 20.0) -> None:
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline, "it did not happen in time"
        await asyncio.sleep(0.005)


def removals(raw: redis.Redis) -> list[int]:
    """When sweeps removed something, in milliseconds."""
    entries = cast("list[tuple[str, dict[str, str]]]", raw.xrange("bull:q:events"))
    return [int(id.split("-")[0]) for id, event in entries if event["event"] == "toril:evicted"]


async def test_an_age_is_kept_to_within_a_period_on_an_idle_queue(
    redis_url: str, raw: redis.Redis
) -> None:
    config = {"cleanup": {"period": f"{PERIOD}ms"}}
    async with App(redis_url, Retention(completed="500ms"), config=config) as app:
        job = await app.queue("q").add("do")
        async with app.worker("q", work):
            finished: list[int] = []

            def gone() -> bool:
                score = raw.zscore("bull:q:completed", job.id)
                if score is not None:
                    finished[:] = [int(score)]
                return bool(finished) and score is None

            await until(gone)
    (removed,) = removals(raw)
    assert finished[0] + 500 <= removed <= finished[0] + 500 + PERIOD + LATE


@pytest.mark.parametrize("limit", [Keep(last=1), Keep(age="1ms")])
async def test_a_lowered_limit_needs_no_finish(
    redis_url: str, raw: redis.Redis, limit: Keep
) -> None:
    config = {"cleanup": {"period": f"{PERIOD}ms"}}
    async with App(redis_url, config=config) as app:
        queue = app.queue("q")
        await queue.add_many([NewJob("do") for _ in range(20)])
        async with app.worker("q", work, concurrency=10):
            await until(lambda: raw.zcard("bull:q:completed") == 20)
            said = time.time() * 1000
            await queue.set(Retention(completed=limit))
            await until(lambda: raw.zcard("bull:q:completed") == (limit.last or 0))
    assert max(removals(raw)) <= said + PERIOD + LATE


async def test_nothing_of_a_removed_job_is_left(redis_url: str, raw: redis.Redis) -> None:
    """Whatever it had: children, logs, results, rules, buckets, tiers, a tombstone."""
    clock = ManualClock()
    async with App(redis_url, clock=clock) as app:
        queue = app.queue("q")
        rules = (
            Keep(age="1h"),
            Keep(last=1),
            Keep(last=1, key="name"),
            Keep(first=1, key="data.c"),
            Keep(age="1h", data="30m", logs="10m"),
            Keep(age="1h", tombstone="61m"),
            Keep(age="1h", flow=True),
        )
        for keep in rules:
            both = Retention(completed=keep, failed=keep)
            children = [
                Flow("q", "do", {"c": 1}),
                Flow("q", "fail", {"c": 2}, on_failure="continue"),
                Flow("q", "fail", {"c": 3}, on_failure="ignore"),
            ]
            await app.add_flow(Flow("q", "parent", {"c": 4}, children=children), both)
        await queue.set(Retention(completed="2h", failed=Keep(last=2, key="name")))
        for name in ("do", "fail", "do", "fail", "fail", "fail"):
            await queue.add(name, {"c": 5})
        await app.worker("q", work, concurrency=10).run(burst=True)
        assert await app.run_services("q")
        clock.advance("1h")
        assert await app.run_services("q")
        assert raw.keys("bull:q:toril:cleanup:*")
        await queue.set(Ceiling(completed="1h", failed="1h"))
        for _ in range(3):
            clock.advance("2h")
            assert await app.run_services("q")
    assert check(raw, at_rest=True) == []
    left = cast("list[str]", raw.keys("bull:q:*"))
    # The last of them is the journal of what was said for the queue; it names no job.
    whole = {"bull:q:meta", "bull:q:events", "bull:q:marker", "bull:q:toril:said"}
    assert {key for key in left if raw.pttl(key) == -1} <= whole
    tombs = [key for key in left if ":tomb:" in key]
    assert tombs
    assert all(raw.pttl(key) <= 61 * 60_000 for key in tombs)
    fields = cast("list[str]", raw.hkeys("bull:q:meta"))
    ours = [name for name in fields if name.startswith("toril.cleanup.")]
    assert ours == ["toril.cleanup.swept"]  # when somebody swept last


async def test_a_full_server_is_relieved(fresh_server: ServerFactory) -> None:
    """At `maxmemory` without eviction, adding fails; retention makes room, and work goes on."""
    server = fresh_server(maxmemory="16mb", maxmemory_policy="noeviction")
    clock = ManualClock()
    with server.client() as raw:
        async with App(server.url, clock=clock) as app:
            queue = app.queue("q")
            worker = app.worker("q", work, concurrency=50)
            added = 0
            some = [NewJob("do", "x" * 2000) for _ in range(100)]
            with suppress(ServerFull):
                while added < 100_000:
                    await queue.add_many(some)
                    added += len(some)
                    if added % 500 == 0:
                        await worker.run(burst=True)
            with pytest.raises(ServerFull):
                await queue.add("do", "x" * 2000)
            await worker.run(burst=True)
            assert raw.zcard("bull:q:completed") >= added
            full = raw.info("memory")["used_memory"]
            await queue.set(Retention(completed=10))
            assert await app.run_services("q")
            assert raw.zcard("bull:q:completed") == 10
            relieved = raw.info("memory")["used_memory"]
            assert relieved < full / 2
            for _ in range(0, added, len(some)):
                await queue.add_many(some)
                await worker.run(burst=True)
            assert raw.zcard("bull:q:completed") == 10
        assert check(raw, at_rest=True) == []
