"""Metrics per minute: what `tick` counts of the jobs that it ends."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import redis
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.lua.conftest import fill
from tests.lua.database import contents
from tests.lua.making import active, end, finish
from tests.lua.running import Runner
from tests.lua.seeding import NOW, Q, Seed

from toril.protocol.inspecting import MINUTE_MS, minute_metrics
from toril.protocol.record import CallRecord

START = NOW - NOW % MINUTE_MS
BOTH = ("completed", "failed")


def stored(raw: redis.Redis) -> dict[str, Any]:
    return {key: value for key, value in contents(raw).items() if ":metrics:" in key}


def expected(ends: Sequence[tuple[int, str]], most: int) -> dict[str, Any]:
    """What BullMQ's rules say of jobs that ended one by one, as (ms, outcome)."""
    found: dict[str, Any] = {}
    for now, outcome in ends:
        key = f"{Q}:metrics:{outcome}"
        kept = found.setdefault(key, {"count": 0, "prevTS": None, "prevCount": 0})
        before, kept["count"] = kept["count"], kept["count"] + 1
        if kept["prevTS"] is None:
            kept["prevTS"] = now
            continue
        minutes = min(now // MINUTE_MS - kept["prevTS"] // MINUTE_MS, most)
        if minutes > 0:
            points = found.get(f"{key}:data", [])
            points = ["0"] * (minutes - 1) + [str(before - kept["prevCount"]), *points]
            found[f"{key}:data"] = points[:most]
            kept["prevTS"], kept["prevCount"] = now, before
    return {
        key: {name: str(number) for name, number in value.items()}
        if isinstance(value, dict)
        else value
        for key, value in found.items()
    }


batches = st.lists(
    st.tuples(
        st.one_of(st.integers(0, 3 * MINUTE_MS), st.integers(0, 50 * MINUTE_MS)),
        st.lists(st.sampled_from([*BOTH, "retry", "wait"]), min_size=1, max_size=8),
    ),
    max_size=8,
)


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(calls=batches, most=st.integers(1, 12))
def test_a_batch_counts_as_its_jobs_one_by_one(
    raw: redis.Redis, calls: list[tuple[int, list[Any]]], most: int
) -> None:
    raw.flushdb()
    run, seed, now, ends = Runner(raw), Seed(raw), START, []
    for number, (later, kinds) in enumerate(calls):
        now += later
        ids = [f"j{number}-{i}" for i in range(len(kinds))]
        for id in ids:
            active(raw, seed, id)
        finishes = [finish(id, kind=kind) for id, kind in zip(ids, kinds, strict=True)]
        end(run, *finishes, now=now, metrics_minutes=most)
        ends += [(now, kind) for kind in kinds if kind in BOTH]
    assert stored(raw) == expected(ends, most)


def test_only_what_has_ended_counts_and_only_once(
    run: Runner, raw: redis.Redis, seed: Seed
) -> None:
    active(raw, seed, "a")
    record = CallRecord("w", 0, 1)
    done = [finish("a"), finish("gone"), finish("b", token="other")]
    for _ in range(2):
        end(run, *done, metrics_minutes=10, record=record)
    assert raw.hget(f"{Q}:metrics:completed", "count") == "1"
    assert not raw.exists(f"{Q}:metrics:failed")


def test_very_many_minutes(run: Runner, raw: redis.Redis, seed: Seed) -> None:
    active(raw, seed, "a")
    raw.hset(f"{Q}:metrics:completed", mapping={"count": 7, "prevTS": 0, "prevCount": 2})
    end(run, finish("a"), metrics_minutes=20_160)
    points = raw.lrange(f"{Q}:metrics:completed:data", 0, -1)
    assert (len(points), points[-1], set(points[:-1])) == (20_160, "5", {"0"})


@pytest.mark.parametrize(
    "garbled", [{"prevTS": "x"}, {"count": "x"}, {"prevTS": "1", "prevCount": "x"}]
)
@pytest.mark.parametrize("key", [f"{Q}:metrics:completed", f"{Q}:metrics:completed:data"])
def test_garbled_charts_keep_no_job_from_ending(
    run: Runner, raw: redis.Redis, seed: Seed, garbled: Any, key: str
) -> None:
    active(raw, seed, "a")
    raw.hset(key, mapping=garbled)
    assert end(run, finish("a"), metrics_minutes=10).codes == (0,)
    assert raw.zscore(f"{Q}:completed", "a") is not None


def test_on_a_full_server(own_server: redis.Redis) -> None:
    seed = Seed(own_server)
    active(own_server, seed, "a")
    own_server.hset(f"{Q}:metrics:completed", mapping={"count": 1, "prevTS": 0, "prevCount": 0})
    fill(own_server)
    assert end(Runner(own_server), finish("a"), metrics_minutes=3).codes == (0,)
    assert own_server.lrange(f"{Q}:metrics:completed:data", 0, -1) == ["0", "0", "1"]


def test_what_it_costs(run: Runner, raw: redis.Redis, seed: Seed) -> None:
    """Nothing while it is off; on, two commands a call for each outcome in it."""

    def commands(number: int, **more: Any) -> int:
        ids = [f"j{number}-{i}" for i in range(4)]
        for id in ids:
            active(raw, seed, id)
        raw.config_resetstat()
        end(run, *map(finish, ids), **more)
        stats: Any = raw.info("commandstats")
        return sum(stat["calls"] for stat in stats.values())

    commands(0, metrics_minutes=10)  # the first has the keys to make
    off, on = commands(1), commands(2, metrics_minutes=10)
    assert on == off + 2


def test_reading(run: Runner, raw: redis.Redis) -> None:
    nothing = run(minute_metrics(Q, "failed", 0, -1))
    assert (nothing.total, nothing.last, nothing.newest, nothing.points) == (0, None, 0, ())
    raw.hset(f"{Q}:metrics:failed", mapping={"count": 9, "prevTS": NOW, "prevCount": 7})
    raw.rpush(f"{Q}:metrics:failed:data", 3, 0, 4)
    found = run(minute_metrics(Q, "failed", 0, 1))
    assert (found.total, found.last, found.newest) == (9, NOW, 2)
    assert (found.points, found.minutes) == ((3, 0), 3)
