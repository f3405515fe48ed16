"""Holds: what is held stays whatever was said, whoever removes; what is released goes."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from datetime import datetime, timedelta
from functools import partial
from typing import Any, cast

import pytest
import redis
from tests.conftest import Library
from tests.scenarios.stage import until
from tests.support.place import Place, entries, foreign_finish, keys_of, place

from toril import App, ConfigurationError, Flow, Reject
from toril.plugins import Said, as_datetime
from toril_plugins import Hold, Holds, Keep, Retention, hold, release

HELD = 9e15
LONG_AGO = 1_600_000_000_000


@pytest.fixture
async def here(redis_url: str) -> AsyncIterator[Place]:
    async with place(redis_url) as there:
        yield there


def scores(raw: redis.Redis, state: str = "completed") -> dict[str, float]:
    found: Any = raw.zrange(f"bull:q:{state}", 0, -1, withscores=True)
    return dict(found)


class TestValue:
    def test_it_reads_back(self, here: Place) -> None:
        until = as_datetime(here.clock.now_ms())
        value = Holds(
            Hold(id="a", why="audit", who="eve", until=until, since=until),
            Hold(name="send", data={"customer.id": 7, "b": "7", "c": True, "d": None, "e": 1.5}),
        )
        assert Holds.decode(value.encode()) == value

    def test_what_is_held_by_its_id_is_looked_up_by_its_id(self) -> None:
        soon, later = as_datetime(LONG_AGO), as_datetime(LONG_AGO + 5)
        some = Holds(Hold(id="a", until=later), Hold(id="a", name="x"), Hold(id="b", until=soon))
        fields = Holds.project([Said(some, "queue", "me", 0)])
        assert fields["list"] == "[]"
        assert [hold["handle"] for hold in json.loads(fields["id.a"])] == [
            hold.handle for hold in some.holds[:2]
        ]
        assert set(fields) == {"list", "id.a", "id.b", "ends", "print"}
        assert fields["ends"] == f"{LONG_AGO},{LONG_AGO + 5}"
        more = Holds.project([Said(Holds(*some.holds, Hold(name="x")), "queue", "me", 0)])
        assert [hold["name"] for hold in json.loads(more["list"])] == ["x"]
        assert more["print"] != fields["print"]
        assert Holds.project([Said(Holds(), "queue", "me", 0)]) == {}

    @pytest.mark.parametrize(
        ("given", "error"),
        [
            ({}, "everything"),
            ({"id": ""}, "give a text"),
            ({"name": 7}, "give a text"),
            ({"id": "a", "why": None}, "give a text"),
            ({"id": "a", "why": "x" * 501}, "500"),
            ({"data": {"a b": 1}}, "field"),
            ({"data": {"a": 2**53 + 1}}, "exactly"),
            ({"data": {"a": float("nan")}}, "exactly"),
        ],
    )
    def test_what_it_refuses(self, given: Any, error: str) -> None:
        with pytest.raises(ValueError, match=error):
            Hold(**given)

    async def test_what_is_no_hold(self, redis_url: str) -> None:
        wrong: Any = "a"
        with pytest.raises(TypeError, match=r"Hold\(data=5\): give values by path"):
            Hold(data=cast("Any", 5))
        with pytest.raises(TypeError, match=r"Holds\('a'\): give holds"):
            Holds(wrong)
        async with App(redis_url) as app:
            with pytest.raises(TypeError, match=r"hold\(queue, 'a'\): give a Hold"):
                await hold(app.queue("q"), wrong)
            with pytest.raises(TypeError, match=r"release\(queue, 5\): give a Hold or its handle"):
                await release(app.queue("q"), cast("Any", 5))

    def test_a_time_without_a_zone_and_a_value_that_is_none(self) -> None:
        with pytest.raises(ValueError, match="time zone"):
            Hold(id="a", until=datetime(2026, 1, 1))  # noqa: DTZ001
        with pytest.raises(TypeError, match="a datetime"):
            Hold(id="a", until="1d")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
        with pytest.raises(TypeError, match="a value is"):
            Hold(data={"a": [1]})  # type: ignore[dict-item]  # pyright: ignore[reportArgumentType]

    def test_at_most_a_thousand(self) -> None:
        many = [Hold(id=f"j{n}") for n in range(1001)]
        assert len(Holds(*many[:1000], many[0]).holds) == 1000
        with pytest.raises(ValueError, match="1000"):
            Holds(*many)

    async def test_they_are_said_for_a_queue_only(self, here: Place) -> None:
        with pytest.raises(ConfigurationError, match="only at 'queue'"):
            await here.queue.add("do", None, Holds(Hold(id="a")))

    @pytest.mark.parametrize("stored", [7, [{"id": 7}], [{"why": "x"}], [{"id": "a", "x": 1}]])
    def test_garbled_ones(self, stored: Any) -> None:
        with pytest.raises(ValueError, match=r"not (a )?stored|everything"):
            Holds.decode(stored)


CONDITIONS: list[tuple[Hold, set[str]]] = [
    (Hold(id="a1"), {"a1"}),
    (Hold(name="do"), {"a1", "b1", "n1"}),
    (Hold(data={"c": "a"}), {"a1", "a2"}),
    (Hold(name="other", data={"c": "a"}), {"a2"}),
    (Hold(id="a1", name="other"), set()),
    (Hold(data={"deep.n": 7}), {"n1"}),
    (Hold(data={"deep.n": "7"}), {"n2"}),
    (Hold(data={"deep.n": 7, "c": "n"}), {"n1"}),
    (Hold(data={"deep.n": 7.0}), {"n1"}),
    (Hold(data={"deep": "x"}), set()),
    (Hold(data={"no.such": None}), set()),
    (Hold(data={"nothing": None}), {"n2"}),
]


@pytest.mark.parametrize(("said", "held"), CONDITIONS, ids=[str(each[0]) for each in CONDITIONS])
@pytest.mark.parametrize("before", [True, False])
async def test_what_matches(here: Place, said: Hold, held: set[str], before: bool) -> None:
    """Said before the jobs finish, and after."""
    if before:
        await hold(here.queue, said)
    await here.queue.set(Retention(completed="1s"))
    jobs: dict[str, tuple[str, Any]] = {
        "a1": ("do", {"c": "a"}),
        "a2": ("other", {"c": "a"}),
        "b1": ("do", {"c": "b"}),
        "n1": ("do", {"c": "n", "deep": {"n": 7}}),
        "n2": ("other", {"c": "n", "deep": {"n": "7"}, "nothing": None}),
    }
    for id, (name, data) in jobs.items():
        await here.queue.add(name, data, id=id)
    await here.run()
    if not before:
        await hold(here.queue, said)
    await here.sweep("1h")
    assert await here.kept() == held


async def test_a_held_job_is_out_of_reach_at_once(here: Place, raw: redis.Redis) -> None:
    await hold(here.queue, Hold(name="do", why="audit"))
    await here.finish("a")
    assert scores(raw) == {"a": HELD}
    assert entries(raw)["own:completed"] == ["a"]


@pytest.mark.parametrize("keep", [Keep.nothing(), 1, "1s", Keep(last=1, key="name")])
@pytest.mark.parametrize("level", ["job", "queue"])
async def test_it_beats_what_was_said_and_goes_when_released(
    here: Place, raw: redis.Redis, keep: Any, level: str
) -> None:
    settings = [Retention(completed=keep)]
    if level == "queue":
        await here.queue.set(settings[0])
    said = await hold(here.queue, Hold(data={"c": "h"}))
    await here.finish("h1", "h2", "x1", settings=settings if level == "job" else ())
    await here.finish("x2", "x3")
    await here.sweep("1h")
    assert {"h1", "h2"} <= await here.kept()
    assert await release(here.queue, said) == said
    await here.sweep()
    await here.sweep("1h")
    await here.sweep()
    assert not {"h1", "h2"} & await here.kept()
    assert keys_of(raw, "h1") == keys_of(raw, "h2") == []
    assert "h1" not in str(entries(raw))


async def test_releasing_gives_the_time_of_its_end_back(here: Place, raw: redis.Redis) -> None:
    await here.finish("a", "b")
    before = scores(raw)
    await hold(here.queue, Hold(id="a"))
    assert scores(raw) == {"b": before["b"], "a": HELD}
    await release(here.queue, Hold(id="a"))
    assert scores(raw) == before
    await here.sweep()
    assert entries(raw) == {}


async def test_of_two_holds_one_is_enough(here: Place, raw: redis.Redis) -> None:
    first, second = await hold(here.queue, Hold(id="a")), await hold(here.queue, Hold(name="do"))
    await here.finish("a")
    await release(here.queue, first.handle)
    assert scores(raw) == {"a": HELD}
    await release(here.queue, second)
    assert scores(raw)["a"] < HELD
    assert await here.queue.said(Holds) is None
    assert await release(here.queue, second) is None


async def test_it_ends_by_itself(here: Place, raw: redis.Redis) -> None:
    await here.queue.set(Retention(completed="1m"))
    until = as_datetime(here.clock.now_ms()) + timedelta(hours=1)
    await hold(here.queue, Hold(name="do", until=until))
    await here.finish("a")
    await here.sweep("10m")
    assert await here.kept() == {"a"}
    await here.sweep("1h")
    await here.sweep()
    await here.sweep()
    assert await here.kept() == set()
    # The same hold, said again, looks for jobs again.
    await here.queue.set(Retention(completed="1d"))
    await here.finish("b")
    await hold(here.queue, Hold(name="do"))
    assert scores(raw) == {"b": HELD}


async def test_many_at_once_lose_nobody_s_hold(here: Place) -> None:
    await asyncio.gather(*(hold(here.queue, Hold(id=f"j{n}")) for n in range(20)))
    said = await here.queue.said(Holds)
    assert said is not None
    assert {each.id for each in said.value.holds} == {f"j{n}" for n in range(20)}


async def test_more_jobs_than_a_page_with_one_score(here: Place, raw: redis.Redis) -> None:
    foreign_finish(raw, *(f"{n:03}" for n in range(450)), at=1000, data={"odd": "no"})
    foreign_finish(raw, *(f"{n:03}" for n in range(0, 450, 3)), at=1000, data={"odd": "yes"})
    wanted = {f"{n:03}" for n in range(0, 450, 3)}
    said = await hold(here.queue, Hold(data={"odd": "yes"}))
    assert {id for id, score in scores(raw).items() if score == HELD} == wanted
    await release(here.queue, said)
    assert set(scores(raw).values()) == {1000.0}


async def test_said_as_a_setting_it_holds_with_the_next_sweep(
    here: Place, raw: redis.Redis
) -> None:
    await here.finish("a", "b")
    await here.queue.set(Holds(Hold(id="a"), Hold(data={"c": "b"})))
    await here.sweep()
    assert set(scores(raw).values()) == {HELD}
    await here.queue.unset(Holds)
    await here.sweep()
    assert HELD not in scores(raw).values()


async def test_what_foreigners_finish_is_held_when_it_is_found(
    here: Place, raw: redis.Redis
) -> None:
    await hold(here.queue, Hold(name="do"))
    await here.queue.set(Retention(completed="1s"))
    foreign_finish(raw, "f", at=here.clock.now_ms())
    await here.sweep("1h")
    assert scores(raw) == {"f": HELD}


async def test_the_rules_do_not_count_held_jobs(here: Place) -> None:
    await here.queue.set(Retention(completed=2))
    await hold(here.queue, Hold(data={"c": "h"}))
    await here.finish("h1", "h2", "h3", "a", "b", "c")
    await here.sweep()
    assert await here.kept() == {"h1", "h2", "h3", "b", "c"}


# Who removes


async def refused(doing: Any) -> str:
    with pytest.raises(Reject) as caught:
        await doing
    assert caught.value.plugin == "cleanup"
    return str(caught.value)


async def test_remove_says_which_hold_stands_in_the_way(here: Place) -> None:
    said = await hold(here.queue, Hold(name="do", why="audit 2026", who="eve"))
    await here.finish("a")
    await here.queue.add("do", None, id="waits")
    for id in ("a", "waits"):
        told = await refused(here.queue.remove(id))
        assert f"held ({said.handle}) by eve: audit 2026" in told
    assert await here.kept("waiting") | await here.kept() == {"a", "waits"}


async def test_a_tree_with_a_held_job_stays_whole(here: Place, raw: redis.Redis) -> None:
    await hold(here.queue, Hold(id="below"))
    flow = Flow("q", "top", children=[Flow("q", "do", id="below"), Flow("q", "do", id="free")])
    job = await here.app.add_flow(flow)
    before = sorted(raw.scan_iter("bull:q:*"))
    await refused(job.remove())
    assert sorted(raw.scan_iter("bull:q:*")) == before
    await release(here.queue, Hold(id="below"))
    assert await job.remove()


async def test_clean_and_drain_pass_over_it(here: Place) -> None:
    said = await hold(here.queue, Hold(data={"c": "h"}, why="audit 2026", who="eve"))
    await here.finish("h1", "a1")
    cleaned = await here.queue.clean("completed", older_than="0s")
    assert cleaned == ["a1"]
    why = f"held ({said.handle}) by eve: audit 2026"
    assert [(each.id, each.reason) for each in cleaned.kept] == [("h1", why)]
    await here.queue.add("do", {"c": "h"}, id="h2")
    await here.queue.add("do", {"c": "a"}, id="a2")
    drained = await here.queue.drain()
    assert drained == ["a2"]
    assert (drained.kept_count, drained.kept[0].id, drained.kept[0].reason) == (1, "h2", why)


async def test_obliterate_removes_nothing_at_all(here: Place, raw: redis.Redis) -> None:
    await here.finish(*"abcdef")
    await hold(here.queue, Hold(id="e"))
    told = await refused(here.queue.obliterate())
    assert "e: held" in told
    assert len(scores(raw)) == 6
    assert not await here.queue.is_paused()
    await release(here.queue, Hold(id="e"))
    await here.queue.obliterate()
    assert list(raw.scan_iter("bull:q:*")) == []


# Retries


async def test_a_held_job_can_be_retried(here: Place, raw: redis.Redis) -> None:
    await hold(here.queue, Hold(id="a"))
    await here.finish("a", name="fail")
    job = await here.queue.get("a")
    assert job is not None
    await job.retry()
    raw.hset("bull:q:a", "name", "do")
    await here.run()
    assert scores(raw) == {"a": HELD}
    assert scores(raw, "failed") == {}
    await here.sweep("11m")
    assert "own:failed" not in entries(raw)
    await release(here.queue, Hold(id="a"))
    await here.sweep("11m")
    assert entries(raw) == {}


async def test_a_job_that_was_retried_is_released_without_a_trace(
    here: Place, raw: redis.Redis
) -> None:
    await hold(here.queue, Hold(id="a"))
    await here.finish("a", name="fail")
    await here.queue.retry_all("failed")  # counts by time: held jobs are none of "all"
    job = await here.queue.get("a")
    assert job is not None
    await job.retry()
    await release(here.queue, Hold(id="a"))
    assert scores(raw, "failed") == {}
    assert await job.state() == "waiting"
    assert entries(raw) == {}


# Workers and tools of other libraries


@pytest.mark.parametrize("name", ["node", "python"])
@pytest.mark.parametrize("keep", [{"count": 2}, {"age": 1, "count": 100}], ids=["count", "age"])
async def test_foreign_retention_leaves_it(
    here: Place, raw: redis.Redis, library: Library, name: str, keep: Any
) -> None:
    foreign_finish(raw, "h", "x", at=LONG_AGO)
    await hold(here.queue, Hold(id="h"))
    driver = library(name)
    await driver.worker("q", removeOnComplete=keep)
    for count in (1, 2, 3):
        await driver.add("q", "do", {"do": [["return", 1]]}, {"jobId": f"f{count}"})
        await until("it has ended", partial(raw.zscore, "bull:q:completed", f"f{count}"))
    kept = set(scores(raw))
    await driver.reset()
    assert "h" in kept
    assert "x" not in kept


async def test_foreign_cleaning_and_repair_leave_it(
    here: Place, raw: redis.Redis, library: Library
) -> None:
    foreign_finish(raw, "h", "x", at=LONG_AGO)
    await hold(here.queue, Hold(id="h"))
    before = {key: raw.dump(key) for key in keys_of(raw, "h")}
    node = library("node")
    assert await node.act("clean", "q", grace=0, limit=0, state="completed") == ["x"]
    await node.act("remove_orphaned", "q")
    assert {key: raw.dump(key) for key in keys_of(raw, "h")} == before
    assert scores(raw) == {"h": HELD}


async def test_foreign_retry_and_removal_leave_nothing_stale(
    here: Place, raw: redis.Redis, library: Library
) -> None:
    await hold(here.queue, Hold(name="fail"))
    await here.finish("a", "b", name="fail")
    node = library("node")
    await node.act("retry", "q", id="a", state="failed")
    await node.act("remove", "q", id="b")
    assert await here.kept("waiting") == {"a"}
    raw.hset("bull:q:a", "name", "do")
    await here.run()
    await here.sweep("11m")
    assert entries(raw) == {}
    assert list(scores(raw)) == ["a"]
