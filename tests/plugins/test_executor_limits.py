"""The executor of retention: ceilings, buckets with a first and a last, the size of slices."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from typing import Any

import pytest
import redis
from tests.support.place import Place, entries, foreign_finish, place

from toril import Flow, NewJob, hookimpl
from toril.plugins import FinishedJob
from toril_plugins import Ceiling, Due, Hold, Holds, Keep, Postpone, Retention, Verdicts

FOR_EVER = [Retention(completed=Keep.forever(), failed=Keep.forever())]


@pytest.fixture
async def here(redis_url: str) -> AsyncIterator[Place]:
    async with place(redis_url) as there:
        yield there


class Forever:
    """A strategy that keeps everything."""

    @hookimpl
    def toril_plan_retention(self, job: FinishedJob) -> Keep:
        return Keep.forever()


# Ceilings


async def test_a_ceiling_counts_at_the_finish_and_beats_the_job(here: Place) -> None:
    await here.queue.set(Ceiling(completed=2))
    await here.finish("a", "b", "c", settings=FOR_EVER)
    assert await here.kept() == {"b", "c"}
    assert here.removed.jobs == [("a", "ceiling of the queue: last 2")]


async def test_a_ceiling_beats_a_strategy(redis_url: str) -> None:
    async with place(redis_url, plugins=[Forever()]) as here:
        await here.queue.set(Ceiling(completed=2, failed="1h"))
        await here.finish("a", "b", "c")
        await here.finish("f", name="fail")
        await here.sweep()
        assert await here.kept() == {"b", "c"}
        assert await here.kept("failed") == {"f"}
        await here.sweep("61m")
        assert await here.kept("failed") == set()


async def test_a_ceiling_by_age_beats_every_level(here: Place, raw: redis.Redis) -> None:
    await here.queue.set(Ceiling(completed="1h"))
    await here.queue.set(Retention(completed="30d"))
    await here.finish("a")
    await here.finish("b", settings=FOR_EVER)
    await here.finish("c", settings=[Retention(completed=Keep(last=9, key="name"))])
    foreign_finish(raw, "x", at=here.clock.now_ms(), opts={"removeOnComplete": False})
    await here.sweep("59m")
    assert await here.kept() == {"a", "b", "c", "x"}
    await here.sweep("2m")
    assert await here.kept() == set()
    assert entries(raw) == {}


async def test_a_lower_value_than_the_ceiling_holds(here: Place) -> None:
    await here.queue.set(Ceiling(completed=10))
    await here.queue.set(Retention(completed=1))
    await here.finish("a", "b")
    assert await here.kept() == {"b"}


async def test_a_ceiling_that_is_set_later_counts_without_any_finish(here: Place) -> None:
    await here.finish(*"abcdef", settings=FOR_EVER)
    await here.queue.set(Ceiling(completed=2))
    await here.sweep()
    assert await here.kept() == {"e", "f"}


async def test_a_ceiling_that_is_lifted_leaves_decisions_as_they_are(redis_url: str) -> None:
    class Later:
        @hookimpl
        def toril_review_removal(self, due: Sequence[Due]) -> Verdicts:
            return {each.job.id: Postpone("1m", "wait") for each in due}

    async with place(redis_url, plugins=[Later()]) as here:
        await here.queue.set(Ceiling(completed=1))
        await here.finish("a", "b", "c", settings=FOR_EVER)
        await here.sweep()
        await here.queue.unset(Ceiling)
        for _ in range(3):
            await here.sweep("2h")
        assert await here.kept() == {"a", "b", "c"}


async def test_holds_beat_the_ceiling(here: Place) -> None:
    await here.queue.set(Holds(Hold(id="a", why="a case", who="legal")))
    await here.queue.set(Ceiling(completed=1))
    await here.finish("a", "b", "c")
    assert await here.kept() == {"a", "c"}
    await here.queue.unset(Holds)
    for _ in range(3):
        await here.sweep("1m")
    assert await here.kept() == {"c"}


async def test_a_ceiling_passes_over_a_child_that_its_parent_waits_for(
    here: Place, raw: redis.Redis
) -> None:
    flow = Flow("other", "top", children=[Flow("q", "fail", 1)])
    await here.app.add_flow(flow)
    await here.run()
    [child] = await here.kept("failed")
    await here.queue.set(Ceiling(failed=1))
    await here.finish(*"abc", name="fail")
    await here.sweep()
    assert await here.kept("failed") == {child, "c"}
    raw.delete(*[key for key in raw.scan_iter("bull:other:*") if raw.type(key) != "stream"])
    for _ in range(3):
        await here.sweep("1h")
    assert await here.kept("failed") == {"c"}


async def test_many_parked_jobs_do_not_stop_a_ceiling(here: Place, raw: redis.Redis) -> None:
    raw.hset("bull:p:1", "name", "parent")
    now = here.clock.now_ms()
    ids = [f"x{n:04}" for n in range(2500)]
    foreign_finish(raw, *ids, at=now, state="failed", parentKey="bull:p:1")
    raw.sadd("bull:p:1:dependencies", *(f"bull:q:{each}" for each in ids))
    here.clock.advance("1s")
    foreign_finish(raw, *(f"y{n}" for n in range(300)), at=here.clock.now_ms(), state="failed")
    await here.queue.set(Ceiling(failed=100))
    for _ in range(4):
        await here.sweep()
    kept = await here.kept("failed")
    assert len([each for each in kept if each.startswith("x")]) == 2500
    assert len([each for each in kept if each.startswith("y")]) == 100


# The first and the last of a bucket


@pytest.mark.parametrize("own", [False, True], ids=["live", "own"])
@pytest.mark.parametrize(
    ("keep", "kept"),
    [
        (Keep(first=2), "ab"),
        (Keep(first=2, last=1), "abf"),
        (Keep(first=1, key="data.c"), "abcdef"),
        (Keep(first=1, key="name"), "a"),
        (Keep(last=2, key="name"), "ef"),
        (Keep(first=1, last=1, key="name"), "af"),
    ],
    ids=str,
)
async def test_the_oldest_and_the_newest_of_a_bucket(
    here: Place, own: bool, keep: Keep, kept: str
) -> None:
    if not own:
        await here.queue.set(Retention(completed=keep))
    await here.finish(*"abcdef", settings=[Retention(completed=keep)] if own else [])
    assert await here.kept() == set(kept)
    await here.sweep()
    assert await here.kept() == set(kept)


async def test_a_place_among_the_first_becomes_free(here: Place) -> None:
    keep = Keep(first=2, age="1h")
    await here.finish("a", "b", "c", settings=[Retention(completed=keep)])
    assert await here.kept() == {"a", "b"}
    await here.sweep("2h")
    assert await here.kept() == set()
    await here.finish("d", "e", "f", settings=[Retention(completed=keep)])
    assert await here.kept() == {"d", "e"}


async def test_a_strategy_names_the_group(redis_url: str) -> None:
    class Fingerprints:
        @hookimpl
        def toril_plan_retention(self, job: FinishedJob) -> Keep:
            return Keep(first=1, group=job.get("c", str))

    async with place(redis_url, plugins=[Fingerprints()]) as here:
        for batch in "12":
            await here.finish(*(f"{each}{batch}" for each in "abc"))
        assert await here.kept() == {"a1", "b1", "c1"}


async def test_jobs_of_which_the_same_was_said_count_together(redis_url: str) -> None:
    said = [Retention(completed=Keep(last=1, group="g"))]
    async with place(redis_url) as here:
        await here.finish("a", settings=said)
        here.clock.advance("1s")
        await here.app.add_flow(Flow("q", "do", 1), *said)
        await here.run()
        kept = await here.kept()
        assert "a" not in kept, "the same words, whoever of them said them"
        assert len(kept) == 1


async def test_a_bucket_that_a_lowered_limit_leaves_too_large(here: Place) -> None:
    await here.queue.set(Retention(completed=Keep(last=4, key="name")))
    await here.finish(*"abcdef")
    await here.queue.set(Retention(completed=Keep(first=1, last=1, key="name")))
    for _ in range(2):
        await here.sweep()
    assert await here.kept() == {"c", "f"}


# Slices


async def test_large_snapshots_are_handed_to_the_hooks_in_parts(
    here: Place, raw: redis.Redis
) -> None:
    """Hooks get what was stored of removed jobs: one reply holds about a megabyte of it."""
    large = "x" * 400_000
    await here.queue.add_many(NewJob("do", large, id=f"j{n}") for n in range(8))
    await here.run()
    await here.queue.set(Retention(completed=Keep.nothing()))
    raw.config_resetstat()
    await here.sweep()
    assert await here.kept() == set()
    assert len(here.removed.snapshots) == 8
    assert all(each.data == large for each in here.removed.snapshots)
    stats: Any = raw.info("commandstats")
    assert stats["cmdstat_zrem"]["calls"] >= 3


async def test_a_lowered_limit_goes_in_slices(here: Place, raw: redis.Redis) -> None:
    foreign_finish(raw, *(f"j{n:04}" for n in range(1000)), at=here.clock.now_ms())
    raw.config_resetstat()
    await here.queue.set(Retention(completed=10))
    await here.sweep()
    assert len(await here.kept()) == 10
    stats: Any = raw.info("commandstats")
    assert stats["cmdstat_unlink"]["calls"] >= 990 / 50
    stream: Any = raw.xrange("bull:q:events")
    evicted = [entry for _, entry in stream if entry["event"] == "toril:evicted"]
    assert sum(int(entry["count"]) for entry in evicted) == 990
