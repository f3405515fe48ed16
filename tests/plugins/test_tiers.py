"""Tiers: parts of a kept job go before the job does."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from typing import Any

import pytest
import redis
from tests.interop.conftest import Library
from tests.support.place import Place, entries, foreign_finish, place

from toril import ActiveJob, App, Flow, JobFailed, JobRemoved, Unrecoverable, hookimpl
from toril.plugins import ManualClock
from toril_plugins import Due, Hold, Holds, Keep, Postpone, Retention, Verdicts

TIERS = Keep("30d", logs="1d", data="7d")


@pytest.fixture
async def here(redis_url: str) -> AsyncIterator[Place]:
    async with place(redis_url) as there:
        yield there


async def log_and_end(job: ActiveJob) -> Any:
    await job.log("one line")
    await job.progress(50)
    if job.name == "fail":
        raise Unrecoverable("as asked")
    return {"answer": 42}


async def finish(here: Place, *ids: str, name: str = "do", settings: Any = ()) -> None:
    for each in ids:
        await here.queue.add(name, {"secret": each}, *settings, id=each)
        here.clock.advance("1s")
        await here.app.worker("q", log_and_end).run(burst=True)


def parts(raw: redis.Redis, id: str) -> set[str]:
    """Which of the parts that a tier takes away are there."""
    fields: Any = raw.hgetall(f"bull:q:{id}")
    found = {name for name in ("returnvalue", "progress", "stacktrace") if name in fields}
    found |= {name for name in ("logs", "processed", "failed") if raw.exists(f"bull:q:{id}:{name}")}
    return found | ({"data"} if fields.get("data", "{ }") != "{ }" else set())


WHOLE = {"data", "returnvalue", "progress", "logs"}
FAILED = {"data", "progress", "stacktrace", "logs"}


@pytest.mark.parametrize("own", [True, False], ids=["job", "queue"])
async def test_logs_go_first_then_data_then_the_job(
    here: Place, raw: redis.Redis, *, own: bool
) -> None:
    said = [Retention(completed=TIERS, failed=TIERS)]
    if not own:
        await here.queue.set(*said)
    await finish(here, "a", settings=said if own else [])
    await finish(here, "f", name="fail", settings=said if own else [])
    await here.sweep("23h")
    assert (parts(raw, "a"), parts(raw, "f")) == (WHOLE, FAILED)
    await here.sweep("1h")
    assert parts(raw, "a") == {"data", "returnvalue", "progress"}
    assert parts(raw, "f") == {"data", "progress"}
    await here.sweep("6d")
    assert (parts(raw, "a"), parts(raw, "f")) == (set(), set())
    job = await here.queue.get("f")
    assert job is not None
    assert (job.name, job.data, job.reason) == ("fail", {}, "as asked")
    await here.sweep("22d 23h")
    assert await here.kept() | await here.kept("failed") == {"a", "f"}
    await here.sweep("1h")
    assert await here.kept() | await here.kept("failed") == set()
    assert entries(raw) == {}


async def test_one_late_sweep_takes_all_that_has_come(here: Place, raw: redis.Redis) -> None:
    await finish(here, "a", settings=[Retention(completed=TIERS)])
    await here.sweep("8d")
    assert parts(raw, "a") == set()
    assert await here.kept() == {"a"}
    await here.sweep("22d")
    assert await here.kept() == set()


async def test_what_it_returned_is_told_until_it_has_gone(here: Place) -> None:
    """And never made up: a job that returned nothing is another one."""
    await here.queue.set(Retention(completed=TIERS, failed=TIERS))
    await finish(here, "a")
    await finish(here, "f", name="fail")
    good, bad = await here.queue.get("a"), await here.queue.get("f")
    assert good is not None
    assert bad is not None
    for later in ("1d", "6d"):
        assert await good.result(timeout="5s") == {"answer": 42}
        await here.sweep(later)
    with pytest.raises(JobRemoved, match="'a' of queue 'q' completed, and its result was not kept"):
        await good.result(timeout="5s")
    with pytest.raises(JobFailed, match="as asked"):
        await bad.result(timeout="5s")


async def test_a_job_kept_for_ever_loses_its_data_all_the_same(
    here: Place, raw: redis.Redis
) -> None:
    await finish(here, "a", settings=[Retention(completed=Keep(data="1h"))])
    await here.sweep("1h")
    assert parts(raw, "a") == {"logs"}
    await here.sweep("1000d")
    assert await here.kept() == {"a"}
    assert entries(raw) == {"own:completed": ["a"], "rule:completed": ["a"]}


async def test_a_job_with_tiers_goes_by_its_count(here: Place, raw: redis.Redis) -> None:
    await finish(here, "a", settings=[Retention(completed=Keep(last=2, logs="1h"))])
    await here.sweep("1h")
    assert parts(raw, "a") == WHOLE - {"logs"}
    await finish(here, "b", "c")
    assert await here.kept() == {"b", "c"}


async def test_what_its_children_returned_goes_with_the_data(here: Place, raw: redis.Redis) -> None:
    await here.queue.set(Retention(completed=Keep(data="1h")))
    flow = Flow("q", "parent", {"x": 1}, id="p", children=[Flow("q", "child", 1, id="c")])
    await here.app.add_flow(flow)
    await here.app.worker("q", log_and_end).run(burst=True)
    assert "processed" in parts(raw, "p")
    await here.sweep("1h")
    assert parts(raw, "p") == {"logs"}


async def test_a_job_of_its_own_does_not_follow_the_queues_tiers(
    here: Place, raw: redis.Redis
) -> None:
    await here.queue.set(Retention(completed=TIERS))
    await finish(here, "a", settings=[Retention(completed="60d")])
    await finish(here, "b")
    await here.sweep("10d")
    assert (parts(raw, "a"), parts(raw, "b")) == (WHOLE, set())


async def test_what_other_libraries_finished_follows_the_tiers(
    here: Place, raw: redis.Redis
) -> None:
    await here.queue.set(Retention(completed=TIERS))
    foreign_finish(raw, "a", at=here.clock.now_ms(), data={"x": 1}, returnvalue="5")
    await here.sweep("7d")
    assert parts(raw, "a") == set()


async def test_a_tier_said_later_reaches_the_jobs_that_are_there(
    here: Place, raw: redis.Redis
) -> None:
    now = here.clock.now_ms()
    ids = [f"j{n:03}" for n in range(350)]
    foreign_finish(raw, *ids[:250], at=now, data={"x": 1})  # more than a slice at one moment
    foreign_finish(raw, *ids[250:], at=now + 5, data={"x": 1})
    await here.sweep("2d")
    assert {id for id in ids if parts(raw, id)} == set(ids)
    await here.queue.set(Retention(completed=Keep(data="1d")))
    await here.sweep()
    assert {id for id in ids if parts(raw, id)} == set()
    await here.queue.set(Retention(completed=Keep(data="1h")))
    foreign_finish(raw, "late", at=here.clock.now_ms(), data={"x": 1})
    await here.sweep("1h")
    assert parts(raw, "late") == set()


async def test_what_is_held_loses_nothing(here: Place, raw: redis.Redis) -> None:
    await here.queue.set(Retention(completed=TIERS))
    await here.queue.set(Holds(Hold(id="a", why="lawsuit"), Hold(id="b", why="lawsuit")))
    await finish(here, "a")
    await finish(here, "b", settings=[Retention(completed=TIERS)])
    await finish(here, "c")
    await here.sweep("10d")
    assert (parts(raw, "a"), parts(raw, "b"), parts(raw, "c")) == (WHOLE, WHOLE, set())
    await here.queue.unset(Holds)
    await here.sweep()
    await here.sweep("1m")
    assert (parts(raw, "a"), parts(raw, "b")) == (set(), set())
    await here.sweep("20d")
    await here.sweep("1h")
    assert await here.kept() == set()


class Objects:
    """A reviewer that lets nothing go for a day."""

    @hookimpl
    def toril_review_removal(self, due: Sequence[Due]) -> Verdicts:
        return {each.job.id: Postpone("1d", "not today") for each in due}


async def test_review_is_about_the_job_and_not_about_its_parts(
    redis_url: str, raw: redis.Redis
) -> None:
    async with place(redis_url, plugins=[Objects()]) as here:
        await finish(here, "a", settings=[Retention(completed=TIERS)])
        await here.sweep("10d")
        assert parts(raw, "a") == set()
        await here.sweep("20d")
        await here.sweep("2d")
        assert await here.kept() == {"a"}


async def test_where_only_a_report_is_wanted_nothing_is_stripped(
    redis_url: str, raw: redis.Redis
) -> None:
    clock = ManualClock()
    for report_only in (True, False):
        config = {"cleanup": {"report_only": report_only}}
        async with App(redis_url, clock=clock, config=config) as app:
            queue = app.queue("q")
            if report_only:
                await queue.set(Retention(completed=TIERS))
                await queue.add("do", {"x": 1}, id="a")
                await queue.add("do", {"x": 1}, Retention(completed=TIERS), id="b")
                await app.worker("q", log_and_end).run(burst=True)
                clock.advance("10d")
            await app.run_services("q")
            clock.advance("2m")
            await app.run_services("q")
            whole = WHOLE if report_only else set[str]()
            assert (parts(raw, "a"), parts(raw, "b")) == (whole, whole)


async def test_idle_sweeps_write_nothing(here: Place, raw: redis.Redis) -> None:
    await here.queue.set(Retention(completed=TIERS, failed=TIERS))
    await finish(here, "a", "b")
    await here.sweep("2d")
    before: Any = raw.hgetall("bull:q:meta")
    before.pop("toril.cleanup.swept")
    await here.sweep("1h")
    after: Any = raw.hgetall("bull:q:meta")
    after.pop("toril.cleanup.swept")
    assert after == before


async def test_a_retried_job_begins_anew(here: Place, raw: redis.Redis) -> None:
    await finish(here, "f", name="fail", settings=[Retention(failed=TIERS)])
    await here.sweep("12h")
    await here.queue.retry_all("failed")
    await here.sweep("12h")
    assert await here.queue.state("f") == "waiting"
    await here.app.worker("q", log_and_end).run(burst=True)
    await here.sweep("13h")
    assert parts(raw, "f") == FAILED
    await here.sweep("11h")
    assert parts(raw, "f") == {"data", "progress"}


@pytest.mark.parametrize("reader", ["node", "python"])
async def test_other_libraries_read_what_is_left(
    library: Library, redis_url: str, reader: str
) -> None:
    there = library(reader)
    async with place(redis_url) as here:
        await here.queue.set(Retention(completed=TIERS, failed=TIERS))
        await finish(here, "a")
        await finish(here, "f", name="fail")
        await here.sweep("10d")
        for id, state, reason in (("a", "completed", None), ("f", "failed", "as asked")):
            job = await there.job("q", id)
            assert job is not None
            assert (job["state"], job["data"], job["reason"]) == (state, {}, reason)
            assert (job["result"], await there.logs("q", id)) == (None, [])
    await there.reset()
    await asyncio.sleep(0)
