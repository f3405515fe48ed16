"""Time limits of many jobs with one timer."""

from __future__ import annotations

import asyncio
from typing import cast
from unittest.mock import Mock

import pytest

from toril.snapshots import JobSnapshot
from toril.worker.active_job import ActiveJob, JobHost
from toril.worker.time_limits import TimeLimits


def job(name: str) -> ActiveJob:
    return ActiveJob(cast(JobHost, None), JobSnapshot("q", name, {}), "token")


async def test_limits_that_are_not_reached_take_one_timer(monkeypatch: pytest.MonkeyPatch) -> None:
    loop = asyncio.get_running_loop()
    call_at = Mock(side_effect=loop.call_at)
    monkeypatch.setattr(loop, "call_at", call_at)
    limits = TimeLimits(Mock())
    for _ in range(20):
        one = job("a")
        limits.begin(one, 60_000)
        limits.end(one)
    limits.close()
    assert call_at.call_count == 1


async def test_each_job_is_told_when_its_own_time_is_up() -> None:
    told: list[tuple[str, int]] = []
    limits = TimeLimits(lambda job, limit: told.append((job.id, limit)))
    ended = job("ended")
    limits.begin(ended, 5)
    limits.end(ended)
    for name, limit in (("never", 60_000), ("second", 20), ("first", 10)):
        limits.begin(job(name), limit)
    async with asyncio.timeout(10):
        while len(told) < 2:
            await asyncio.sleep(0.001)
    limits.close()
    assert told == [("first", 10), ("second", 20)]
