"""A worker that picks up a run of a schedule adds the next one."""

from __future__ import annotations

import asyncio
import json
import logging
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import Any

import pytest
from tests.worker.conftest import Listener, until

from toril import ActiveJob, App, Cron, Every
from toril.clock import ManualClock
from toril.job_events import JobSaved
from toril_plugins import Retention

NOON = round(datetime(2026, 11, 23, 12, tzinfo=UTC).timestamp() * 1000)
MINUTE = 60_000


async def done(job: ActiveJob) -> str:
    return job.id


async def work(app: App, handler: Any = done) -> None:
    """Run what there is to run now."""
    await app.worker("q", handler, concurrency=2).run(burst=True)


async def test_one_run_after_the_other(redis_url: str, raw: Any) -> None:
    clock = ManualClock(NOON)
    async with App(redis_url, plugins=[], clock=clock) as app:
        queue = app.queue("q")
        await queue.schedule("s", Every("10m"), "tick", {"n": 1})
        for number in range(3):
            await work(app)
            assert raw.zcard("bull:q:completed") == number + 1
            due = NOON + (number + 1) * 10 * MINUTE
            assert raw.zrange("bull:q:delayed", 0, -1) == [f"repeat:s:{due}"]
            clock.advance("10m")
        (found,) = await queue.schedules()
        assert found.runs == 4
        job = await queue.get(f"repeat:s:{NOON + 20 * MINUTE}")
        assert job is not None
        assert job.snapshot.opts["repeat"] == {"every": 600000, "count": 3}


async def test_late_it_skips_what_is_past(redis_url: str, raw: Any) -> None:
    clock = ManualClock(NOON)
    async with App(redis_url, plugins=[], clock=clock) as app:
        await app.queue("q").schedule("s", Every("10m", offset="1m"), "tick")
        await app.queue("q").schedule("c", Cron("*/10 * * * *"), "tick")
        clock.advance("65m")
        await work(app)
    assert sorted(raw.zrange("bull:q:delayed", 0, -1)) == [
        f"repeat:c:{NOON + 70 * MINUTE}",
        f"repeat:s:{NOON + 71 * MINUTE}",
    ]


async def test_a_retry_has_no_second_successor(redis_url: str, raw: Any) -> None:
    seen: list[str] = []

    async def fail_once(job: ActiveJob) -> None:
        seen.append(job.id)
        if len(seen) == 1:
            raise RuntimeError("not yet")

    async with App(redis_url, plugins=[], clock=ManualClock(NOON)) as app:
        await app.queue("q").schedule("s", Every("10m"), "tick", attempts=2)
        await work(app, fail_once)
    assert seen == [f"repeat:s:{NOON}"] * 2
    assert raw.zrange("bull:q:delayed", 0, -1) == [f"repeat:s:{NOON + 10 * MINUTE}"]
    assert raw.hget("bull:q:repeat:s", "ic") == "2"


async def test_limit_and_end(redis_url: str, raw: Any) -> None:
    clock = ManualClock(NOON)
    end = datetime(2026, 11, 23, 12, 15, tzinfo=UTC)
    async with App(redis_url, plugins=[], clock=clock) as app:
        await app.queue("q").schedule("limited", Every("10m", limit=2), "tick")
        await app.queue("q").schedule("ending", Cron("*/10 * * * *", end=end), "tick")
        for _ in range(5):
            await work(app)
            clock.advance("10m")
    ended = [id.split(":")[1] for id in raw.zrange("bull:q:completed", 0, -1)]
    assert sorted(ended) == ["ending", "limited", "limited"]  # no run at 12:20
    assert raw.zcard("bull:q:delayed") == 0


async def test_a_run_at_the_very_end(redis_url: str, raw: Any) -> None:
    clock = ManualClock(NOON)
    end = datetime(2026, 11, 23, 12, 20, tzinfo=UTC)
    async with App(redis_url, plugins=[], clock=clock) as app:
        await app.queue("q").schedule("s", Cron("*/10 * * * *", end=end), "tick")
        for _ in range(4):
            await work(app)
            clock.advance("10m")
    ran = [f"repeat:s:{NOON + minutes * MINUTE}" for minutes in (10, 20)]
    assert raw.zrange("bull:q:completed", 0, -1) == ran


async def test_paused_while_a_run_is_active(redis_url: str, raw: Any) -> None:
    async with App(redis_url, plugins=[], clock=ManualClock(NOON)) as app:
        queue = app.queue("q")
        await queue.schedule("s", Every("10m"), "tick")

        async def pause(job: ActiveJob) -> None:
            await queue.pause_schedule("s")

        await work(app, pause)
        assert raw.zcard("bull:q:delayed") == 0
        assert (await queue.schedules())[0].paused


async def test_settings_of_the_template_hold_for_later_runs(redis_url: str) -> None:
    clock = ManualClock(NOON)
    async with App(redis_url, clock=clock) as app:
        queue = app.queue("q")
        await queue.schedule("s", Every("10m"), "tick", None, Retention(completed="9d"))
        await work(app)
        job = await queue.get(f"repeat:s:{NOON + 10 * MINUTE}")
        assert job is not None
        (said,) = job.snapshot.settings.said(Retention)
        assert (said.level, said.value) == ("template", Retention(completed="9d"))
        assert job.snapshot.opts["removeOnComplete"] == {"age": 777600}


async def test_hooks_hear_of_every_run(redis_url: str, listener: Listener) -> None:
    async with App(redis_url, plugins=[listener], clock=ManualClock(NOON)) as app:
        await app.queue("q").schedule("s", Every("10m"), "tick", {"n": 1})
        await work(app)
    first, second = listener.of(JobSaved)
    assert first.scheduled
    assert second.scheduled
    assert (second.job.id, second.job.data) == (f"repeat:s:{NOON + 10 * MINUTE}", {"n": 1})


async def test_a_pattern_that_cannot_be_read_ends_the_series_loudly(
    redis_url: str, raw: Any, caplog: pytest.LogCaptureFixture
) -> None:
    async with App(redis_url, plugins=[], clock=ManualClock(NOON)) as app:
        await app.queue("q").schedule("s", Cron("* * * * *", immediately=True), "tick")
        job = f"bull:q:repeat:s:{NOON}"
        opts = json.loads(raw.hget(job, "opts"))
        opts["repeat"]["pattern"] = "H * * * *"
        raw.hset(job, "opts", json.dumps(opts))
        with caplog.at_level(logging.ERROR, "toril.worker"):
            await work(app)
    assert raw.zcard("bull:q:completed") == 1
    assert "schedule 's' of queue q ends" in caplog.text


async def test_a_run_whose_schedule_is_gone_is_an_ordinary_job(redis_url: str, raw: Any) -> None:
    async with App(redis_url, plugins=[], clock=ManualClock(NOON)) as app:
        await app.queue("q").schedule("s", Every("10m"), "tick")
        raw.delete("bull:q:repeat", "bull:q:repeat:s")
        await work(app)
    assert raw.zcard("bull:q:completed") == 1
    assert raw.keys("bull:q:repeat*") == [f"bull:q:repeat:s:{NOON}"]


async def test_in_real_time(redis_url: str) -> None:
    seen: list[int] = []

    async def note(job: ActiveJob) -> None:
        seen.append(int(job.id.rpartition(":")[2]))

    async with App(redis_url, plugins=[]) as app:
        await app.queue("q").schedule("s", Every(timedelta(milliseconds=200)), "tick")
        async with app.worker("q", note):
            await until(lambda: len(seen) >= 4)
    await asyncio.sleep(0)
    assert [later - earlier for earlier, later in pairwise(seen[:4])] == [200] * 3
