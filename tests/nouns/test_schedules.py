"""Schedules: what can be said, stored, read back, paused and ended."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime, timedelta
from typing import Any, cast

import pytest
from tests.nouns.witness import Witness

from toril import ActiveJob, App, Cron, Every, JobNotFound, Reject, hookimpl
from toril.clock import ManualClock
from toril.errors import InvalidJob
from toril.job_events import JobRemoved, JobSaved
from toril.plugins import Draft
from toril_plugins import Retention

NOON = round(datetime(2026, 11, 23, 12, tzinfo=UTC).timestamp() * 1000)
MINUTE = 60_000


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock(NOON)


@pytest.fixture
async def app(redis_url: str, clock: ManualClock) -> AsyncIterator[App]:
    async with App(redis_url, clock=clock) as made:
        yield made


def runs(raw: Any) -> list[str]:
    return sorted(raw.zrange("bull:q:delayed", 0, -1) + raw.lrange("bull:q:wait", 0, -1))


async def test_an_interval(app: App, raw: Any) -> None:
    made = await app.queue("q").schedule("s", Every("10m", offset="3m"), "tick", {"n": 1})
    assert made.next_run == datetime(2026, 11, 23, 12, 3, tzinfo=UTC)
    assert (made.name, made.data, made.runs, made.paused) == ("tick", {"n": 1}, 1, False)
    assert runs(raw) == [f"repeat:s:{NOON + 3 * MINUTE}"]
    job = await app.queue("q").get(f"repeat:s:{NOON + 3 * MINUTE}")
    assert job is not None
    assert job.data == {"n": 1}
    assert await job.state() == "delayed"


async def test_the_first_run_of_an_interval_is_at_once(app: App, raw: Any) -> None:
    await app.queue("q").schedule("s", Every("10m"), "tick")
    assert raw.lrange("bull:q:wait", 0, -1) == [f"repeat:s:{NOON}"]


async def test_a_pattern_in_a_zone(app: App) -> None:
    pace = Cron("30 4 29 2 *", tz="Europe/Madrid")
    made = await app.queue("q").schedule("leap", pace, "tick")
    assert made.next_run == datetime(2028, 2, 29, 3, 30, tzinfo=UTC)
    assert made.pace == pace


async def test_times_to_come(app: App) -> None:
    made = await app.queue("q").schedule("s", Cron("0 9 * * mon-fri", tz="Europe/Madrid"), "tick")
    times = made.times(4)
    assert [f"{when:%a %H:%M}" for when in times] == [
        "Tue 08:00", "Wed 08:00", "Thu 08:00", "Fri 08:00",
    ]  # fmt: skip
    assert made.times(1, after=times[3]) == [datetime(2026, 11, 30, 8, tzinfo=UTC)]
    ending = Every("1h", end=datetime(2026, 11, 23, 14, 30, tzinfo=UTC))
    short = await app.queue("q").schedule("short", ending, "tick")
    assert [when.hour for when in short.times(9)] == [12, 13, 14]
    few = await app.queue("q").schedule("few", Every("1h", limit=2), "tick")
    assert [when.hour for when in few.times(9)] == [12, 13]


async def test_said_again_it_is_replaced(app: App, raw: Any) -> None:
    queue = app.queue("q")
    await queue.schedule("s", Every("10m", offset="3m"), "tick", {"n": 1}, attempts=3)
    await queue.schedule("s", Every("10m", offset="3m"), "tock")
    assert runs(raw) == [f"repeat:s:{NOON + 3 * MINUTE}"]
    (found,) = await queue.schedules()
    assert (found.name, found.data, found.runs) == ("tock", None, 1)
    job = await queue.get(f"repeat:s:{NOON + 3 * MINUTE}")
    assert job is not None
    assert (job.name, "attempts" in job.snapshot.opts) == ("tock", False)


async def test_all_of_them_by_their_next_run(app: App) -> None:
    queue = app.queue("q")
    for number in range(120):
        pace = Every("1d", offset=timedelta(minutes=(number * 7) % 1440))
        await queue.schedule(f"s{number}", pace, "tick")
    found = await queue.schedules()
    assert len(found) == 120
    times = [each.next_run for each in found]
    assert times == sorted(time for time in times if time is not None)
    assert await queue.get_schedule("s7") == next(each for each in found if each.id == "s7")
    assert await queue.get_schedule("none") is None


async def test_removed_with_its_next_run(app: App, raw: Any) -> None:
    queue = app.queue("q")
    await queue.schedule("s", Every("10m", offset="3m"), "tick")
    assert await queue.remove_schedule("s")
    assert not await queue.remove_schedule("s")
    assert raw.keys("bull:q:repeat*") == []
    assert runs(raw) == []


async def test_paused_and_resumed(app: App, raw: Any, clock: ManualClock) -> None:
    queue = app.queue("q")
    await queue.schedule("s", Every("10m", offset="3m"), "tick", {"n": 1}, attempts=2)
    await queue.pause_schedule("s")
    (found,) = await queue.schedules()
    assert (found.paused, found.next_run) == (True, None)
    assert runs(raw) == []
    clock.advance("1h")
    resumed = await queue.resume_schedule("s")
    assert resumed.next_run == datetime(2026, 11, 23, 13, 3, tzinfo=UTC)
    assert not resumed.paused
    job = await queue.get(runs(raw)[0])
    assert job is not None
    assert (job.data, job.snapshot.opts["attempts"]) == ({"n": 1}, 2)
    assert await queue.resume_schedule("s") == resumed


@pytest.mark.parametrize("pace", [Every("10m"), Cron("*/10 * * * *")], ids=str)
async def test_resumed_before_the_run_that_pausing_took_away(
    app: App, raw: Any, clock: ManualClock, pace: Every | Cron
) -> None:
    queue = app.queue("q")
    await queue.schedule("s", pace, "tick")
    await app.worker("q", _done).run(burst=True)
    (following,) = raw.zrange("bull:q:delayed", 0, -1)
    clock.advance("1m")
    for _ in range(2):
        await queue.pause_schedule("s")
        await queue.resume_schedule("s")
        assert raw.zrange("bull:q:delayed", 0, -1) == [following]


async def _done(job: ActiveJob) -> None:
    """Nothing to do."""


async def test_run_now_beside_its_runs(app: App, raw: Any) -> None:
    queue = app.queue("q")
    await queue.schedule(
        "s", Every("10m", offset="3m"), "tick", {"n": 1}, Retention(completed="9d")
    )
    job = await queue.run_schedule("s")
    assert (job.name, job.data, await job.state()) == ("tick", {"n": 1}, "waiting")
    assert len(runs(raw)) == 2
    said = job.snapshot.settings.said(Retention)
    assert [(each.level, each.value) for each in said] == [("template", Retention(completed="9d"))]


async def test_what_is_said_for_the_template_is_stored_with_each_run(app: App, raw: Any) -> None:
    await app.queue("q").schedule("s", Every("10m"), "tick", None, Retention(failed="9d"))
    stored = json.loads(raw.hget("bull:q:repeat:s", "opts"))
    assert stored == {"removeOnFail": {"age": 777600}}
    job = await app.queue("q").get(f"repeat:s:{NOON}")
    assert job is not None
    assert job.snapshot.opts["removeOnFail"] == {"age": 777600}
    assert job.snapshot.settings.get(Retention) == Retention(failed="9d")


@pytest.mark.parametrize(
    "pace",
    [
        Every("1m", end=datetime(2026, 11, 23, 12, tzinfo=UTC)),
        Cron("* * * * *", end=datetime(2026, 11, 23, 11, tzinfo=UTC)),
        Cron("0 3 * * *", end=datetime(2026, 11, 24, 2, 59, tzinfo=UTC)),
        Cron("* * * * *", end=datetime(2026, 11, 23, 11, tzinfo=UTC), immediately=True),
    ],
)
async def test_no_run_before_its_end(app: App, pace: Every | Cron) -> None:
    queue = app.queue("q")
    await queue.schedule("s", Every("1h"), "tick")
    with pytest.raises(InvalidJob, match="'s' has no run to come: its end is 2026-11-2"):
        await queue.schedule("s", pace, "tick")
    assert [found.pace.end for found in await queue.schedules() if found.pace] == [None]


async def test_resumed_after_its_end(app: App, clock: ManualClock) -> None:
    queue = app.queue("q")
    await queue.schedule("s", Every("1h", end=datetime(2026, 11, 23, 13, tzinfo=UTC)), "tick")
    await queue.pause_schedule("s")
    clock.advance("2h")
    with pytest.raises(InvalidJob, match="no run to come"):
        await queue.resume_schedule("s")


@pytest.mark.parametrize("action", ["pause_schedule", "resume_schedule", "run_schedule"])
async def test_there_is_none(app: App, action: str) -> None:
    with pytest.raises(JobNotFound, match="there is no schedule 's' in queue 'q'"):
        await getattr(app.queue("q"), action)("s")


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Every("0s"), "at least 1ms"),
        (lambda: Every("1m", offset="2m"), "less than the interval"),
        (lambda: Every("1m", limit=0), "at least one run"),
        (lambda: Every("1m", start=datetime(2026, 1, 1)), "time zone"),  # noqa: DTZ001
        (lambda: Cron("61 * * * *"), "cron pattern"),
        (lambda: Cron("* * * * *", tz="Nowhere"), "time zone 'Nowhere'"),
        (lambda: Cron("0 3 * * *", tz="Australia/Lord_Howe"), "use another zone"),
    ],
)
def test_a_pace_that_cannot_be(make: Callable[[], object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"limit": 2.5}, "limit is a whole number, not 2.5"),
        ({"end": "2027-01-01"}, "end is a datetime, not '2027-01-01'"),
        ({"pattern": 5}, "a cron pattern is a text, not 5"),
    ],
)
def test_a_value_of_the_wrong_type(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(TypeError, match=message):
        cast(Any, Cron)(**{"pattern": "@daily", **wrong})


async def test_what_a_run_cannot_have(app: App) -> None:
    queue = app.queue("q")
    with pytest.raises(InvalidJob, match="'delay'"):
        await queue.schedule("s", Every("1m"), "tick", delay="1m")
    with pytest.raises(InvalidJob, match="without a colon"):
        await queue.schedule("a:b", Every("1m"), "tick")
    with pytest.raises(TypeError, match=r"Every\(…\) or by Cron"):
        await queue.schedule("s", "1m", "tick")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    assert await queue.schedules() == []


async def test_a_run_whose_id_is_taken(app: App, raw: Any) -> None:
    due = round(datetime(2026, 11, 24, 3, tzinfo=UTC).timestamp() * 1000)
    raw.hset(f"bull:q:repeat:s:{due}", "name", "other")
    with pytest.raises(InvalidJob, match="exist already"):
        await app.queue("q").schedule("s", Cron("0 3 * * *"), "tick")
    raw.hset(f"bull:q:repeat:i:{NOON}", "name", "other")
    made = await app.queue("q").schedule("i", Every("1m"), "tick")
    assert made.next_run == datetime(2026, 11, 23, 12, 1, tzinfo=UTC)


async def test_what_hooks_hear(redis_url: str) -> None:
    witness = Witness()
    async with App(redis_url, plugins=[witness], clock=ManualClock(NOON)) as app:
        queue = app.queue("q")
        await queue.schedule("s", Every("10m", offset="3m"), "tick")
        await queue.remove_schedule("s")
    saved, removed = witness.events
    assert isinstance(saved, JobSaved)
    assert (saved.scheduled, saved.job.name, saved.job.delay) == (True, "tick", 3 * MINUTE)
    assert isinstance(removed, JobRemoved)
    assert (removed.cause, removed.job.id) == ("schedule", saved.job.id)


async def test_a_plugin_refuses_the_template(redis_url: str, raw: Any) -> None:
    class Never:
        @hookimpl
        def toril_plan_save(self, draft: Draft) -> None:
            raise Reject(f"not {draft.name}")

    async with App(redis_url, plugins=[Never()]) as app:
        with pytest.raises(Reject, match="not tick"):
            await app.queue("q").schedule("s", Every("10m"), "tick")
    assert raw.keys("bull:q:repeat*") == []


def test_from_threads(redis_url: str) -> None:
    with App(redis_url, plugins=[], clock=ManualClock(NOON)).sync as app:
        queue = app.queue("q")
        made = queue.schedule("s", Every("10m"), "tick")
        assert queue.schedules() == [made]
        assert queue.get_schedule("s") == made
        queue.pause_schedule("s")
        assert queue.resume_schedule("s").paused is False
        assert queue.run_schedule("s").name == "tick"
        assert queue.remove_schedule("s")


async def test_a_record_that_somebody_garbled(app: App, raw: Any) -> None:
    raw.zadd("bull:q:repeat", {"odd": NOON, "half": NOON})
    raw.hset("bull:q:repeat:odd", mapping={"name": "tick", "pattern": "not one", "data": "{"})
    (found,) = await app.queue("q").schedules()
    assert (found.id, found.pace, found.data) == ("odd", None, "{")
    with pytest.raises(ValueError, match="cannot be read"):
        found.times(1)


async def test_a_setting_in_the_place_of_the_data(app: App) -> None:
    with pytest.raises(TypeError, match="settings come after the data, which may be None"):
        await app.queue("q").add("tick", Retention(failed="9d"))  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
