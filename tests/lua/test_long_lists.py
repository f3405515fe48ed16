"""What a call does in a queue with very much in it is bounded, by numbers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import redis
from tests.lua.making import active, codes, finish
from tests.lua.running import Runner
from tests.lua.seeding import NOW, Q, Seed

from toril.connection.call import Call
from toril.connection.lanes import LanePool
from toril.protocol.adding import LARGEST_FLOW, NewNode
from toril.protocol.changing import change_priority
from toril.protocol.large_flows import add_large_flow
from toril.protocol.locking import stalled_check
from toril.protocol.reading import finished_result, state, states
from toril.protocol.removing import clean, drain, obliterate
from toril.protocol.trees import removal, remove_job
from toril.snapshots import ParentRef


def others(raw: redis.Redis, list: str, count: int, *, behind: bool = False) -> None:
    """Ids of nobody at the tail of a list, or at its head."""
    push = raw.lpush if behind else raw.rpush
    for start in range(0, count, 10_000):
        push(f"{Q}:{list}", *(f"x{n}" for n in range(start, min(start + 10_000, count))))


def surround(raw: redis.Redis, list: str, count: int) -> None:
    """So many at each end."""
    others(raw, list, count)
    others(raw, list, count, behind=True)


def calls(run: Runner, script: str) -> list[Call[Any]]:
    return [each for each in run.requests if isinstance(each, Call) and each.script == script]


# States.


@pytest.mark.parametrize(
    ("place", "told"), [("wait", "waiting"), ("paused", "waiting"), ("active", "active")]
)
def test_a_job_amid_a_very_long_list_is_found(
    run: Runner, seed: Seed, raw: redis.Redis, place: str, told: str
) -> None:
    key = seed.job("j", place)
    if place == "active":
        raw.set(f"{key}:lock", "t:1")
    surround(raw, place, 60_000)
    assert run(state(Q, "j")) == told
    seed.job("lost", None)
    raw.delete(f"{Q}:ghost")
    raw.linsert(f"{Q}:{place}", "BEFORE", "j", "ghost")
    assert run(state(Q, "ghost")) == "unknown"
    ends: list[Any] = [raw.lindex(f"{Q}:{place}", at) for at in (0, -1)]
    assert run(states(Q, ends)) == [told, told]


def test_a_job_that_is_nowhere_is_told_so_where_lists_can_be_looked_through(
    run: Runner, seed: Seed, raw: redis.Redis
) -> None:
    seed.job("lost", None)
    others(raw, "wait", 90_000)
    assert run(state(Q, "lost")) == "unknown"


def test_a_locked_job_is_not_taken_for_a_waiting_one(
    run: Runner, seed: Seed, raw: redis.Redis
) -> None:
    raw.set(f"{seed.job('j', None)}:lock", "t:1")
    surround(raw, "wait", 60_000)
    assert run(state(Q, "j")) == "unknown"


def test_states_of_many_jobs_are_asked_for_in_parts(
    run: Runner, seed: Seed, raw: redis.Redis
) -> None:
    ids = [f"j{n}" for n in range(20)]
    for id_ in ids:
        seed.job(id_)
    others(raw, "wait", 90_000)
    assert run(states(Q, ids)) == ["waiting"] * 20
    assert len(calls(run, "state")) == 10  # two of 90,000 are more than 100,000


def test_whether_a_job_has_ended_looks_through_no_list(
    run: Runner, seed: Seed, raw: redis.Redis
) -> None:
    seed.job("j")
    seed.job("done", "completed", returnvalue="7")
    raw.config_resetstat()
    assert run(finished_result(Q, "j")).outcome is None
    assert run(finished_result(Q, "done")).value == 7
    stats: dict[str, Any] = raw.info("commandstats")
    assert "cmdstat_lpos" not in stats


# Taking ids out.


@pytest.mark.parametrize("behind", [False, True])
def test_a_job_goes_from_either_end(
    run: Runner, seed: Seed, raw: redis.Redis, behind: bool
) -> None:
    others(raw, "wait", 3000)
    seed.job("j")
    others(raw, "wait", 3000, behind=behind)
    raw.linsert(f"{Q}:wait", "BEFORE", "j", "before")
    raw.linsert(f"{Q}:wait", "AFTER", "j", "after")
    assert run(remove_job(Q, "j", with_children=False, now=NOW))
    at: Any = raw.lpos(f"{Q}:wait", "before")
    assert raw.lrange(f"{Q}:wait", at, at + 1) == ["before", "after"]


def test_a_call_removes_few_jobs_from_amid_a_long_list(
    run: Runner, seed: Seed, raw: redis.Redis
) -> None:
    ids = [f"j{n}" for n in range(20)]
    for id_ in ids:
        seed.job(id_)
    surround(raw, "wait", 60_000)
    targets = [(Q, id_) for id_ in ids]
    told: Sequence[int]
    told, _ = run(
        removal(Q, targets, "operator", children=False, doomed={}, now=NOW, want_removed=False)
    )
    assert told == [1]
    assert raw.llen(f"{Q}:wait") == 120_019


def test_a_priority_can_be_changed_amid_a_long_list(
    run: Runner, seed: Seed, raw: redis.Redis
) -> None:
    seed.job("j")
    surround(raw, "wait", 2000)
    run(change_priority(Q, "j", 3, lifo=False))
    assert raw.zrange(f"{Q}:prioritized", 0, -1) == ["j"]
    assert raw.llen(f"{Q}:wait") == 4000


@pytest.mark.parametrize("hint", [True, False])
def test_jobs_end_at_whichever_end_of_a_long_list_they_are(
    run: Runner, seed: Seed, raw: redis.Redis, hint: bool
) -> None:
    for n in range(3):
        active(raw, seed, f"old{n}")
    others(raw, "active", 5000, behind=True)
    for n in range(3):
        active(raw, seed, f"new{n}")
    ids = [f"{age}{n}" for age in ("old", "new") for n in range(3)]
    assert codes(run, *(finish(id_, from_head=hint) for id_ in ids)) == (0,) * 6
    assert raw.zcard(f"{Q}:completed") == 6
    assert raw.llen(f"{Q}:active") == 5000


# Stalled checks.


def stranded(run: Runner, seed: Seed, raw: redis.Redis, count: int) -> None:
    for n in range(count):
        seed.job(f"j{n:04d}", "active")
        raw.sadd(f"{Q}:stalled", f"j{n:04d}")


def recoveries(run: Runner) -> int:
    requests: list[Any] = [each.args[0] for each in calls(run, "stalled")]
    return sum(b"recover" in each for each in requests)


def check(run: Runner) -> Any:
    return run(stalled_check(Q, now=NOW, interval_ms=1000, max_stalled=1))


def test_few_are_put_back_at_a_time_from_amid_a_long_list(
    run: Runner, seed: Seed, raw: redis.Redis
) -> None:
    stranded(run, seed, raw, 12)
    surround(raw, "active", 30_000)
    assert check(run).recovered == 12
    # Two of 60,000 are as many as a call looks through.
    assert recoveries(run) == 6
    assert raw.llen(f"{Q}:active") == 60_000
    assert raw.llen(f"{Q}:wait") == 12


def test_the_oldest_are_put_back_first_and_found_at_once(
    run: Runner, seed: Seed, raw: redis.Redis
) -> None:
    stranded(run, seed, raw, 700)
    others(raw, "active", 20_000, behind=True)
    assert check(run).recovered == 700
    assert recoveries(run) == 7
    assert sorted(raw.lrange(f"{Q}:wait", 0, -1)) == [f"j{n:04d}" for n in range(700)]


# Slices.


def test_slices_take_and_look_at_so_many_jobs(run: Runner, seed: Seed, raw: redis.Redis) -> None:
    for n in range(130):
        seed.job(f"j{n}", "completed", score=NOW + n)
    assert len(run(clean(Q, "completed", NOW + 200, now=NOW))) == 130
    assert len(calls(run, "clean")) == 6
    for n in range(130):
        seed.job(f"w{n}")
    assert len(run(drain(Q, delayed=False, now=NOW))) == 130
    assert len(calls(run, "drain")) == 6
    for n in range(450):
        raw.set(f"{seed.job(f'a{n}', 'active')}:lock", "t:1")
    run.requests.clear()
    assert run(clean(Q, "active", NOW, now=NOW)) == []
    assert len(calls(run, "clean")) == 3  # 200 looks each
    run(obliterate(Q, force=True, now=NOW))
    assert not raw.keys(f"{Q}:*")


# Flows.


def tree(run: Runner, count: int) -> None:
    """A parent with so many children, added in steps."""
    lanes = LanePool("test")
    root = NewNode(queue=Q, id="root", name="n", data="{}", opts={}, timestamp=NOW, is_parent=True)
    children = [
        NewNode(
            queue=Q, id=f"c{n:05d}", name="n", data="{}", opts={}, timestamp=NOW,
            parent=ParentRef(Q, "root"),
        )
        for n in range(count)
    ]  # fmt: skip
    run(add_large_flow([root, *children], clock=lambda: NOW, calls=lanes.call))


def test_a_large_flow_goes_in_few_requests_and_from_the_end_of_its_list(
    run: Runner, raw: redis.Redis
) -> None:
    tree(run, 3000)
    assert LARGEST_FLOW < 3000
    run.requests.clear()
    raw.config_resetstat()
    assert run(remove_job(Q, "root", with_children=True, now=NOW))
    # None for each child: they are looked at, counted and removed 25 at a time.
    assert len(run.requests) < 3000 / 25 * 4
    stats: dict[str, Any] = raw.info("commandstats")
    assert stats["cmdstat_sscan"]["calls"] < 60
    assert not raw.exists(f"{Q}:wait", f"{Q}:root", f"{Q}:c00001")


def test_what_a_large_flow_has_noted_goes_without_holding_up_the_server(
    run: Runner, raw: redis.Redis
) -> None:
    raw.config_resetstat()
    tree(run, 1000)
    assert not raw.keys(f"{Q}:toril:flows*")
    stats: dict[str, Any] = raw.info("commandstats")
    assert "cmdstat_del" not in stats
    assert stats["cmdstat_unlink"]["calls"] == 1
