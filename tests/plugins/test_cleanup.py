"""Cleanup on the real server: every rule of retention, at the finish and by the sweeper."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from typing import Any

import pytest
import redis
from tests.support.place import Place, foreign_finish, keys_of, place, work

from toril import App, ConfigurationError, hookimpl
from toril.plugins import FinishedJob, ManualClock
from toril_plugins import Due, Keep, Retention


@pytest.fixture
async def here(redis_url: str) -> AsyncIterator[Place]:
    async with place(redis_url) as there:
        yield there


async def test_nothing_said_keeps_for_ever(here: Place) -> None:
    await here.finish("a", "b")
    await here.sweep("10000d")
    assert await here.kept() == {"a", "b"}


async def test_a_count_of_the_queue_keeps_the_newest_at_once(here: Place) -> None:
    await here.queue.set(Retention(completed=2))
    await here.finish("a", "b", "c", "d")
    assert await here.kept() == {"c", "d"}
    assert here.removed.jobs == [("a", "queue: last 2"), ("b", "queue: last 2")]
    assert here.removed.snapshots[0].result == {"c": "a"}


async def test_a_lowered_count_counts_without_any_finish(here: Place) -> None:
    await here.finish("a", "b", "c")
    await here.queue.set(Retention(completed=1))
    await here.sweep()
    assert await here.kept() == {"c"}


async def test_age_holds_on_an_idle_queue(here: Place) -> None:
    await here.queue.set(Retention(completed="1h", failed="1d"))
    await here.finish("a")
    await here.finish("f", name="fail")
    await here.sweep("59m")
    assert await here.kept() == {"a"}
    await here.sweep("2m")
    assert (await here.kept(), await here.kept("failed")) == (set(), {"f"})
    await here.sweep("1d")
    assert here.removed.jobs == [("a", "queue: 1h"), ("f", "queue: 1d")]


async def test_nothing_is_kept_when_nothing_is_to_be_kept(here: Place, raw: redis.Redis) -> None:
    await here.finish("a", settings=[Retention(completed=Keep.nothing())])
    assert await here.kept() == set()
    assert keys_of(raw, "a") == []
    assert not raw.keys("bull:q:toril:cleanup:*")
    await here.queue.set(Retention(completed=Keep.nothing()))
    await here.finish("b")
    assert here.removed.jobs == [("a", "job: nothing"), ("b", "queue: nothing")]


async def test_the_most_specific_level_wins_whoever_says_more(redis_url: str) -> None:
    async with place(redis_url, Retention(completed=Keep.nothing())) as here:
        await here.queue.add("do", None, id="a")
        await here.run(Retention(completed=Keep.forever()))
        assert await here.kept() == {"a"}, "the worker goes before the application"
        await here.queue.set(Retention(completed=Keep.nothing()))
        await here.queue.add("do", None, id="b")
        await here.run(Retention(completed=Keep.forever()))
        assert "b" not in await here.kept(), "the queue goes before the worker"
        await here.queue.add("do", None, Retention(completed="1h"), id="c")
        await here.run(Retention(completed=Keep.forever()))
        assert "c" in await here.kept(), "the job goes before the queue"


async def test_a_job_with_its_own_age_outlives_the_queues_count(here: Place) -> None:
    await here.queue.set(Retention(completed=1))
    await here.finish("a", settings=[Retention(completed="1d")])
    await here.finish("b", "c", "d")
    assert await here.kept() == {"a", "d"}
    await here.sweep("1d")
    assert await here.kept() == {"d"}
    assert here.removed.jobs[-1] == ("a", "job: 1d")


async def test_an_own_count_counts_newer_jobs_of_the_queue(here: Place, raw: redis.Redis) -> None:
    await here.finish("a", settings=[Retention(completed=2)])
    await here.finish("b")
    assert "a" in await here.kept()
    await here.finish("c")
    assert await here.kept() == {"b", "c"}
    await here.sweep()
    assert not raw.hgetall("bull:q:meta").keys() & {"toril.cleanup.seq.completed"}


async def test_a_count_per_name_and_per_field(here: Place) -> None:
    await here.queue.set(Retention(completed=Keep(last=1, key="data.c")))
    await here.finish("a1", "b1", "a2", "b2", "a3")
    assert await here.kept() == {"a3", "b2"}
    await here.queue.set(Retention(completed=Keep(last=1, key="name")))
    await here.sweep()
    await here.sweep()
    assert await here.kept() == {"a3"}


async def test_an_own_count_per_field(here: Place) -> None:
    each = [Retention(completed=Keep(last=1, key="data.c"))]
    await here.finish("a1", "b1", "a2", settings=each)
    await here.finish("x", "y")
    assert await here.kept() == {"b1", "a2", "x", "y"}


async def test_a_retried_job_is_not_removed_by_what_was_decided_before(here: Place) -> None:
    await here.finish("f", name="fail", settings=[Retention(failed="1h")])
    await here.queue.retry_all("failed")
    await here.sweep("2h")
    assert await here.queue.state("f") == "waiting"
    await here.run()
    assert await here.kept("failed") == {"f"}
    await here.sweep("59m")
    assert await here.kept("failed") == {"f"}
    await here.sweep("2m")
    assert await here.kept("failed") == set()


async def test_removing_by_hand_leaves_nothing_of_a_decision(here: Place, raw: redis.Redis) -> None:
    await here.finish("a", settings=[Retention(completed=Keep(last=5, key="name", age="1h"))])
    assert await here.queue.remove("a")
    left = [key for key in raw.keys("bull:q:toril:cleanup:*") if raw.type(key) != "none"]
    assert left == []


async def test_what_another_library_said_and_finished_is_adopted(
    here: Place, raw: redis.Redis
) -> None:
    now = here.clock.now_ms()
    await here.queue.set(Retention(completed=1))
    foreign_finish(raw, "a", at=now, opts={"removeOnComplete": {"age": 3600}})
    foreign_finish(raw, "b", "c", at=now)
    await here.sweep()
    assert await here.kept() == {"a", "c"}
    await here.sweep("1h")
    assert await here.kept() == {"c"}
    assert ("a", "job: 1h") in here.removed.jobs


async def test_an_own_count_is_reached_by_what_other_libraries_finish(
    here: Place, raw: redis.Redis
) -> None:
    await here.finish("a", settings=[Retention(completed=2)])
    await here.sweep()
    for each in ("x", "y"):
        here.clock.advance("1s")
        now = here.clock.now_ms()
        fields: Any = {"name": "x", "data": "{}", "opts": "{}", "timestamp": now, "finishedOn": now}
        raw.hset(f"bull:q:{each}", mapping=fields)
        raw.zadd("bull:q:completed", {each: now})
    job = await here.queue.get("a")
    assert job is not None
    assert "at the next sweep" in [fact.text for fact in await job.explain()]
    await here.sweep("10m")
    assert await here.kept() == {"x", "y"}
    assert here.removed.jobs == [("a", "job: last 2")]
    last: Any = raw.xrevrange("bull:q:events", count=1)
    assert last[0][1]["event"] == "toril:evicted"


class Tiers:
    """Somebody's own strategy."""

    def __init__(self) -> None:
        self.broken = False

    @hookimpl
    def toril_plan_retention(self, job: FinishedJob) -> Keep | None:
        if self.broken:
            raise RuntimeError("no opinion today")
        return Keep(age="1d") if job.get("c", str) == "g" else None


async def test_a_strategy_beats_what_people_said(redis_url: str) -> None:
    async with place(redis_url, plugins=[Tiers()]) as here:
        await here.queue.set(Retention(completed=Keep.nothing()))
        await here.finish("gold", "iron")
        assert await here.kept() == {"gold"}
        await here.sweep("1d")
        assert here.removed.jobs == [
            ("iron", "queue: nothing"),
            ("gold", "plugin Tiers: 1d"),
        ]


async def test_a_strategy_that_raises_keeps_the_job_until_it_answers(
    redis_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    tiers = Tiers()
    async with place(redis_url, plugins=[tiers]) as here:
        await here.queue.set(Retention(completed=Keep.nothing()))
        tiers.broken = True
        await here.finish("iron")
        await here.sweep()
        assert await here.kept() == {"iron"}
        assert "no opinion today" in caplog.text
        tiers.broken = False
        await here.sweep("2m")
        await here.sweep()
        assert await here.kept() == set()


async def test_a_strategy_is_asked_about_jobs_that_others_finished(
    redis_url: str, raw: redis.Redis
) -> None:
    async with place(redis_url, plugins=[Tiers()]) as here:
        await here.queue.set(Retention(completed=0))
        for name in ("gold", "iron"):
            foreign_finish(raw, name, at=here.clock.now_ms(), data={"c": name[0]})
        await here.sweep()
        assert await here.kept() == {"gold"}


async def test_explain_says_the_rule_the_level_and_when_it_goes(here: Place) -> None:
    await here.queue.set(Retention(completed="2h"))
    await here.finish("a")
    await here.finish("b", settings=[Retention(completed=3)])

    async def facts(id: str) -> dict[str, tuple[str, str | None]]:
        job = await here.queue.get(id)
        assert job is not None
        return {fact.subject: (fact.text, fact.level) for fact in await job.explain()}

    assert (await facts("a"))["rule"] == ("2h", "queue")
    assert (await facts("a"))["removal"][0].startswith("in 2h")
    assert (await facts("b"))["rule"] == ("last 3", "job")
    assert (await facts("b"))["removal"][0] == "after 3 more completed jobs"


async def test_without_cleanup_finished_jobs_stay(redis_url: str) -> None:
    clock = ManualClock()
    async with App(redis_url, block=["cleanup"], clock=clock) as app:
        queue = app.queue("q")
        await queue.add("do", None, Retention(completed=Keep.nothing()), id="a")
        await app.worker("q", work).run(burst=True)
        assert await queue.state("a") == "completed"


@pytest.mark.parametrize("keep", [Keep.nothing(), 1])
async def test_where_jobs_are_copied_none_goes_before(redis_url: str, keep: Keep | int) -> None:
    """Also where nobody wants to hear of removals, so that a finish may take the short way."""
    copied: set[str] = set()

    class Copying:
        toril_name = "copying"

        @hookimpl
        def toril_before_removal(self, jobs: Sequence[Due]) -> None:
            copied.update(each.job.id for each in jobs)

    async with App(redis_url, Retention(completed=keep), plugins=[Copying(), "*"]) as app:
        queue = app.queue("q")
        jobs = [await queue.add("do") for _ in range(3)]
        await app.worker("q", work).run(burst=True)
        assert {job.id for job in jobs if await job.state() == "unknown"} <= copied


async def test_without_persistence_a_jobs_own_setting_is_refused_and_a_live_one_holds(
    redis_url: str,
) -> None:
    async with App(redis_url, Retention(completed=Keep.nothing()), block=["persistence"]) as app:
        queue = app.queue("q")
        with pytest.raises(ConfigurationError, match="no plugin in use stores that"):
            await queue.add("do", None, Retention(completed="1h"))
        assert (await queue.counts())["waiting"] == 0
        job = await queue.add("do")
        await app.worker("q", work).run(burst=True)
        assert await queue.get(job.id) is None
