"""What the tests of crashes share: an App as a new process has it, and what is left behind."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Any, Final, cast

import redis

from tests.support.invariants import check, read
from tests.support.place import entries
from toril import ActiveJob, App, Unrecoverable
from toril.plugins import ManualClock
from toril_plugins.testing.base import WITHOUT_RESTS

NOW: Final = 1_790_000_000_000
SHORT_MS: Final = 600_000
"""What ends within that time are locks, leases and records of calls."""


async def work(job: ActiveJob) -> Any:
    """Completes, unless the job's name asks for another end."""
    if job.name == "fail":
        raise Unrecoverable("as asked")
    return job.name


@asynccontextmanager
async def process(
    url: str, *, plugins: Sequence[object] = (), config: Mapping[str, Any] | None = None,
    now: int = NOW,
) -> AsyncGenerator[App]:  # fmt: skip
    """An App that knows nothing but what is stored."""
    clock = ManualClock(now)
    config = {**WITHOUT_RESTS, **(config or {})}
    async with App(url, plugins=[*plugins, "*"], config=config, clock=clock) as app:
        yield app


async def sweep(
    url: str, *queues: str, times: Sequence[int] = (NOW,), config: Mapping[str, Any] | None = None
) -> None:
    """A process that runs the services of each queue at these times, and ends."""
    async with process(url, config=config, now=times[0]) as app:
        clock = cast(ManualClock, app.runtime.clock)
        for time in times:
            clock.advance(timedelta(milliseconds=time - clock.now_ms()))
            for queue in queues or ("q",):
                assert await app.run_services(queue)


async def run(url: str, *queues: str, concurrency: int = 10, **options: Any) -> None:
    """A process that works off what waits in each queue, and ends."""
    async with process(url, **options) as app:
        for queue in queues or ("q",):
            worker = app.worker(queue, work, concurrency=concurrency, max_stalled=1000)
            await worker.run(burst=True)


def time_passes(raw: redis.Redis) -> None:
    """What a dead process held ends: its locks and leases."""
    for key in cast("list[str]", list(raw.scan_iter("bull:*", count=1000))):
        if 0 < raw.pttl(key) <= SHORT_MS:
            raw.delete(key)


def sound(raw: redis.Redis, *, at_rest: bool = False) -> None:
    """All that holds at any moment holds now."""
    wrong = check(raw, at_rest=at_rest)
    assert wrong == [], wrong


def kept(raw: redis.Redis) -> dict[str, dict[str, list[str]]]:
    """Which jobs are left where, of each queue."""
    left: dict[str, dict[str, list[str]]] = {}
    for key, queue in read(raw).queues.items():
        places = left.setdefault(key, {})
        for job_id, states in queue.states.items():
            places.setdefault(" and ".join(states), []).append(job_id)
        for ids in places.values():
            ids.sort()
    return left


def noted(raw: redis.Redis) -> dict[str, list[str]]:
    """What cleanup has written down about jobs of the queue `q`."""
    return entries(raw)


def evicted(raw: redis.Redis, queue: str = "q") -> int:
    """How many removals the events tell of."""
    told = cast("list[tuple[str, dict[str, str]]]", raw.xrange(f"bull:{queue}:events"))
    several = sum(int(e["count"]) for _, e in told if e["event"] == "toril:evicted")
    return several + sum(e["event"] == "removed" for _, e in told)
