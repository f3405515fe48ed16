from __future__ import annotations

from typing import Any

import pytest
import redis
from tests.lua.conftest import fill
from tests.lua.database import changes, contents, events
from tests.lua.running import Runner
from tests.lua.seeding import NOW, OTHER, Q, Seed

from toril.job_events import JobRemoved
from toril.protocol.effects import REMOVED
from toril.protocol.removing import clean
from toril.types import State


def cleaned(run: Runner, state: State, before: int = NOW, limit: int = 0) -> list[str]:
    found: list[str] = run(
        clean(Q, state, before, limit=limit, now=NOW, wants=frozenset({REMOVED}))
    )
    return found


@pytest.mark.parametrize("state", ["completed", "failed"])
def test_finished_jobs_go_by_their_end(
    run: Runner, seed: Seed, raw: redis.Redis, state: State
) -> None:
    seed.job("young", state, score=NOW + 1, timestamp=1)
    before = contents(raw)
    seed.job("b", state, score=NOW, timestamp=NOW + 5, deid="d")
    seed.job("a", state, score=NOW - 1)
    raw.rpush(f"{Q}:a:logs", "line")
    raw.set(f"{Q}:de:d", "b")
    raw.set(f"{Q}:a:processed", "garbled")
    assert cleaned(run, state) == ["a", "b"]
    assert changes(before, contents(raw)) == {
        f"{Q}:events": [{"event": "cleaned", "count": "2"}],
    }
    assert [(event.job.id, event.state, event.cause) for event in removals(run)] == [
        ("a", state, "clean"),
        ("b", state, "clean"),
    ]


def removals(run: Runner) -> list[JobRemoved]:
    return [event for event in run.events if isinstance(event, JobRemoved)]


@pytest.mark.parametrize(
    "case",
    [
        ("wait", "waiting", {"timestamp": NOW}, {"timestamp": NOW + 1}),
        ("paused", "waiting", {"timestamp": NOW}, {"timestamp": NOW + 1}),
        ("wait", "waiting", {"processedOn": 1, "timestamp": NOW + 1}, {"processedOn": NOW + 1}),
        ("wait", "waiting", {"finishedOn": 1, "processedOn": NOW + 1}, {"finishedOn": NOW + 1}),
        ("active", "active", {"processedOn": NOW}, {"processedOn": NOW + 1}),
        ("delayed", "delayed", {"processedOn": 1, "timestamp": NOW + 1}, {"processedOn": NOW + 1}),
        ("delayed", "delayed", {"finishedOn": NOW + 9}, {"timestamp": NOW + 1}),
        ("prioritized", "prioritized", {"processedOn": NOW + 9}, {"timestamp": NOW + 1}),
        ("wait", "waiting", {"timestamp": "garbled"}, {"timestamp": NOW + 1}),
    ],
)
def test_other_jobs_go_by_their_last_sign_of_life(
    run: Runner,
    seed: Seed,
    raw: redis.Redis,
    case: tuple[str, State, dict[str, Any], dict[str, Any]],
) -> None:
    place, state, old, young = case
    seed.job("young", place, **young)
    before = contents(raw)
    seed.job("old", place, **old)
    assert cleaned(run, state) == ["old"]
    changed = changes(before, contents(raw))
    assert changed.pop(f"{Q}:events") == [{"event": "cleaned", "count": "1"}]
    assert changed.keys() <= {f"{Q}:marker"}


def test_nothing_to_clean_is_told_too(run: Runner, raw: redis.Redis) -> None:
    assert cleaned(run, "failed") == []
    assert events(raw, Q) == [{"event": "cleaned", "count": "0"}]


def test_a_state_that_cannot_be_cleaned(run: Runner) -> None:
    with pytest.raises(ValueError, match="waiting-children"):
        cleaned(run, "waiting-children")


def test_in_slices_with_one_event(run: Runner, seed: Seed, raw: redis.Redis) -> None:
    for n in range(250):
        seed.job(f"{n:03}", "completed", score=NOW - 1000 + n)
        # Every second waiting job is too young.
        seed.job(f"w{n:03}", timestamp=NOW + n % 2)
    assert cleaned(run, "completed") == [f"{n:03}" for n in range(250)]
    assert len(run.requests) == 10
    assert cleaned(run, "waiting") == [f"w{n:03}" for n in range(0, 250, 2)]
    assert raw.llen(f"{Q}:wait") == 125
    assert [event["count"] for event in events(raw, Q)] == ["250", "125"]
    assert len(removals(run)) == 375


@pytest.mark.parametrize("limit", [1, 99, 100, 101, 130, 200])
def test_the_limit_holds_for_the_whole(
    run: Runner, seed: Seed, raw: redis.Redis, limit: int
) -> None:
    for n in range(150):
        seed.job(f"{n:03}", "failed", score=NOW - 1000 + n)
    assert cleaned(run, "failed", limit=limit) == [f"{n:03}" for n in range(min(limit, 150))]
    assert [event["count"] for event in events(raw, Q)] == [str(min(limit, 150))]


def test_ids_without_a_job_go_and_do_not_count(run: Runner, seed: Seed, raw: redis.Redis) -> None:
    for place in ("wait", "active", "completed"):
        seed.put("ghost", place, score=1)
    raw.set(f"{Q}:garbled", "a string")
    seed.put("garbled", "wait")
    assert cleaned(run, "waiting") == ["garbled"]
    assert cleaned(run, "active") == []
    assert cleaned(run, "completed") == []
    assert contents(raw).keys() == {f"{Q}:events"}


def test_what_somebody_needs_is_kept(run: Runner, seed: Seed, raw: redis.Redis) -> None:
    raw.zadd(f"{Q}:repeat", {"daily": NOW})
    seed.job(f"repeat:daily:{NOW}", "delayed", rjk="daily")
    seed.job("locked", "active")
    raw.set(f"{Q}:locked:lock", "token")
    parent = seed.job("p", "waiting-children")
    remote = seed.job("p", "waiting-children", queue=OTHER)
    seed.job("unflagged", "failed", parent=parent)
    seed.job("child", "wait", parent=remote)
    seed.job("late-child", "delayed", parent=parent)
    before = contents(raw)
    for state in ("delayed", "active", "failed", "waiting"):
        assert cleaned(run, state) == []
    assert changes(before, contents(raw)).keys() == {f"{Q}:events"}


def test_children_that_nobody_waits_for_go(run: Runner, seed: Seed, raw: redis.Redis) -> None:
    parent = seed.job("p", "waiting-children")
    seed.job("open", "active", parent=parent)
    key = seed.job("done", "failed", parent=parent, policy="fpof")
    raw.srem(f"{parent}:dependencies", key)
    raw.zadd(f"{parent}:unsuccessful", {key: NOW})
    seed.job("orphan", "failed", parent=f"{Q}:gone", score=NOW)
    assert set(cleaned(run, "failed")) == {"done", "orphan"}
    assert raw.zrange(f"{parent}:unsuccessful", 0, -1) == [key]
    assert raw.zscore(f"{Q}:waiting-children", "p") is not None


def test_many_kept_jobs_do_not_stop_it(run: Runner, seed: Seed) -> None:
    parent = seed.job("p", "waiting-children")
    for n in range(1200):
        seed.job(f"kept{n}", "failed", parent=parent, score=NOW - 10)
    seed.job("last", "failed", score=NOW)
    assert cleaned(run, "failed") == ["last"]
    assert len(run.requests) == 7


def test_cleaning_active_jobs_wakes_a_worker(run: Runner, seed: Seed, raw: redis.Redis) -> None:
    raw.hset(f"{Q}:meta", "concurrency", 1)
    seed.job("lost", "active")
    seed.job("next")
    assert cleaned(run, "active") == ["lost"]
    assert contents(raw)[f"{Q}:marker"] == {"0": 0}


def test_on_a_full_server(own_server: redis.Redis) -> None:
    seed, run = Seed(own_server), Runner(own_server)
    seed.job("j", "failed")
    seed.job("k")
    fill(own_server)
    assert cleaned(run, "failed") == ["j"]
    assert cleaned(run, "waiting") == ["k"]
