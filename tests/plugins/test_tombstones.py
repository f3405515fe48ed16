"""Tombstones and taken ids: what retention leaves of a job that it removed."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any, cast

import pytest
import redis
from tests.support.place import Place, foreign_finish, place

from toril import ActiveJob, Unrecoverable
from toril_plugins import IdWindow, Keep, Retention

DAY = 86_400_000
TOMB = "bull:q:toril:cleanup:tomb:@"
TAKEN = "bull:q:toril:cleanup:taken:@"


@pytest.fixture
async def here(redis_url: str) -> AsyncIterator[Place]:
    async with place(redis_url) as there:
        yield there


def tomb(raw: redis.Redis, id: str) -> dict[str, str]:
    found: dict[str, str] = cast(Any, raw.hgetall(TOMB + id))
    return found


SAYING = Keep("1d", tombstone="5d")


@pytest.mark.parametrize("own", [True, False], ids=["job", "queue"])
async def test_a_tombstone_is_left_and_forgotten(
    here: Place, raw: redis.Redis, *, own: bool
) -> None:
    said = [Retention(completed=SAYING, failed=SAYING)]
    if not own:
        await here.queue.set(*said)
    start = here.clock.now_ms() + 1_000
    await here.finish("a", settings=said if own else [])
    await here.finish("f", name="fail", settings=said if own else [])
    await here.sweep("1d")
    assert await here.kept() | await here.kept("failed") == set()
    rule = f"{'job' if own else 'queue'}: 1d, tombstone 5d"
    left = tomb(raw, "a")
    told = json.loads(left.pop("job", "{}"))
    assert told == ({"s": "Queue.add", "t": start - 1_000} if own else {})
    assert left == {
        "name": "do",
        "outcome": "completed",
        "finishedOn": str(start),
        "result": '{"c":"a"}',
        "rule": rule,
        "gone": str(here.clock.now_ms()),
    }
    assert tomb(raw, "f")["outcome"] == "failed"
    assert tomb(raw, "f")["reason"] == "as asked"
    # By the server's own clock, counted from the finish.
    lives: Any = raw.pttl(TOMB + "a")
    assert 0 <= start + 5 * DAY - here.clock.now_ms() - lives < 60_000


async def test_nothing_is_kept_but_a_tombstone(here: Place, raw: redis.Redis) -> None:
    keep = Keep(last=0, tombstone="1d")
    await here.finish("a", settings=[Retention(completed=keep)])
    assert await here.kept() == set()
    assert tomb(raw, "a")["rule"] == "job: nothing, tombstone 1d"
    await here.queue.set(Retention(completed=keep))
    await here.finish("b")
    assert tomb(raw, "b")["rule"] == "queue: nothing, tombstone 1d"
    assert set(raw.keys("bull:q:toril:cleanup:*")) == {TOMB + "a", TOMB + "b"}


async def test_a_count_leaves_tombstones_too(here: Place, raw: redis.Redis) -> None:
    await here.queue.set(Retention(completed=Keep(last=1, tombstone="1d")))
    await here.finish("a", "b")
    assert (await here.kept(), bool(tomb(raw, "a")), tomb(raw, "b")) == ({"b"}, True, {})


async def test_one_that_is_past_its_life_is_not_left(here: Place, raw: redis.Redis) -> None:
    await here.finish("a", settings=[Retention(completed=SAYING)])
    await here.sweep("5d")
    assert (await here.kept(), tomb(raw, "a")) == (set(), {})


async def test_no_operator_leaves_one(here: Place, raw: redis.Redis) -> None:
    await here.finish("a", "b", settings=[Retention(completed=SAYING)])
    await here.queue.set(IdWindow("1h"))
    await here.queue.remove("a")
    await here.queue.clean("completed", older_than="0s")
    assert raw.keys("bull:q:toril:cleanup:t*") == []


async def large(job: ActiveJob) -> Any:
    if job.name == "fail":
        raise Unrecoverable("é" * 1000)
    return "x" * 1023


async def test_results_and_reasons_are_cut(here: Place, raw: redis.Redis) -> None:
    await here.queue.set(Retention(completed=SAYING, failed=SAYING))
    await here.queue.add("do", id="a")
    await here.queue.add("fail", id="f")
    await here.app.worker("q", large).run(burst=True)
    await here.sweep("1d")
    assert "result" not in tomb(raw, "a")
    assert tomb(raw, "a")["cut"] == "1025"
    reason = tomb(raw, "f")["reason"]
    assert reason == "é" * 512
    assert tomb(raw, "f")["cut"] == "2000"


async def test_a_garbled_job_leaves_what_can_be_read(here: Place, raw: redis.Redis) -> None:
    await here.queue.set(Retention(completed=SAYING))
    foreign_finish(raw, "a", at=here.clock.now_ms(), parentKey="bull:p:gone")
    raw.hdel("bull:q:a", "name", "finishedOn")
    raw.zadd("bull:q:completed", {"ghost": here.clock.now_ms()})
    await here.sweep("1d")
    assert await here.kept() == set()
    assert tomb(raw, "a")["parent"] == "bull:p:gone"
    assert tomb(raw, "ghost") == {}


async def test_ids_stay_taken_for_their_window(here: Place, raw: redis.Redis) -> None:
    await here.queue.set(IdWindow("1h"))
    await here.queue.set(Retention(completed=Keep.nothing()))
    await here.finish("a")
    assert 0 < raw.pttl(TAKEN + "a") <= 3_600_000
    await here.queue.unset(IdWindow)
    await here.finish("b")
    assert not raw.exists(TAKEN + "b")


async def test_a_removal_without_either_costs_no_command(here: Place, raw: redis.Redis) -> None:
    await here.queue.set(Retention(completed=1))
    await here.finish("a", "b")
    raw.config_resetstat()
    await here.finish("c")
    stats: Any = raw.info("commandstats")
    assert "cmdstat_zadd" in stats
    assert "cmdstat_pexpire" not in stats
    assert not raw.keys("bull:q:toril:cleanup:t*")


async def test_a_tombstone_is_small(here: Place, raw: redis.Redis) -> None:
    await here.queue.set(Retention(completed=Keep(last=0, tombstone="1d")))
    await here.finish("a123456789012345")
    used: Any = raw.memory_usage(TOMB + "a123456789012345")
    assert used < 330
