"""A finish in a queue with a count lets the oldest jobs go at once, except those that it may not.

The way of most finishes is Lua of its own (`look.lua`): whatever it does not see to itself it has
to leave to the others.
"""

from __future__ import annotations

from typing import Any

import pytest
import redis
from tests.lua.database import contents
from tests.lua.making import end, finish, node, take
from tests.lua.running import Runner
from tests.lua.seeding import NOW, OTHER, Q, Seed

from toril.hooks.loader import load_plugins
from toril.plugins import Said
from toril.protocol.adding import add_jobs
from toril.types import Json
from toril_plugins import Ceiling, Hold, Holds, IdWindow, Keep, Requires, Retention

OWN_VALUE = '{"said":{"retention":[{"v":{"completed":{"age":"1d"},"failed":{"age":"1d"}}}]}}'


@pytest.fixture
def run(raw: redis.Redis) -> Runner:
    """Two jobs are active: `new` and `newer`; `old` has failed before."""
    runner = Runner(raw, load_plugins(["persistence", "cleanup"]).chunks)
    runner(add_jobs([node("new"), node("newer")], now=NOW))
    take(runner, 2)
    Seed(raw).job("old", "failed", score=NOW - 1000)
    return runner


def say(raw: redis.Redis, *values: Any) -> None:
    """Say something for the queue."""
    for value in values:
        for field, text in type(value).project([Said(value, "queue", "test", NOW)]).items():
            raw.hset(f"{Q}:meta", f"toril.{type(value).name}.{field}", text)


def fail(run: Runner, raw: redis.Redis, *names: str) -> tuple[list[Json], list[dict[str, str]]]:
    """Let jobs fail; what the plugin's Lua reports, and the events after those of the ends."""
    assert set(end(run, *(finish(name, kind="failed", value="x") for name in names)).codes) == {0}
    assert not run.chunk_errors
    told: Any = contents(raw)[f"{Q}:events"]
    ends = ("added", "waiting", "active", "failed", "retries-exhausted", "drained")
    return [report.value for report in run.reports], [
        event for event in told if event["event"] not in ends
    ]


def failed(raw: redis.Redis) -> list[Any]:
    return list(raw.zrange(f"{Q}:failed", 0, -1))


def test_one_goes_with_an_event_of_its_own(run: Runner, raw: redis.Redis) -> None:
    say(raw, Retention(failed=1))
    raw.rpush(f"{Q}:old:logs", "a line")
    reports, events = fail(run, raw, "new")
    assert failed(raw) == ["new"]
    assert raw.keys(f"{Q}:old*") == []
    assert reports == [[Q, "removed", "failed", "queue", 1]]
    (event,) = events
    assert (event["event"], event["jobId"], event["prev"]) == ("removed", "old", "failed")
    assert event["rule"].startswith("queue: ")


def test_several_go_with_one_event(run: Runner, raw: redis.Redis) -> None:
    say(raw, Retention(failed=1))
    reports, events = fail(run, raw, "new", "newer")
    assert failed(raw) == ["newer"]
    assert reports == [[Q, "removed", "failed", "queue", 2]]
    assert events == [{"event": "toril:evicted", "outcome": "failed", "count": "2"}]


def test_below_its_count_nothing_goes(run: Runner, raw: redis.Redis) -> None:
    say(raw, Retention(failed=3))
    assert fail(run, raw, "new", "newer") == ([], [])
    assert len(failed(raw)) == 3


def test_another_outcome_does_not_count(run: Runner, raw: redis.Redis) -> None:
    say(raw, Retention(completed=1))
    fail(run, raw, "new", "newer")
    assert len(failed(raw)) == 3


@pytest.mark.parametrize(
    "said",
    [Holds(Hold(id="old", why="audit")), Requires("archive")],
    ids=["held", "requires"],
)
def test_what_must_not_go_stays(run: Runner, raw: redis.Redis, said: Any) -> None:
    say(raw, Retention(failed=1), said)
    reports, _ = fail(run, raw, "new")
    assert raw.exists(f"{Q}:old")
    assert not [report for report in reports if isinstance(report, list) and "removed" in report]


def test_a_locked_one_stays(run: Runner, raw: redis.Redis) -> None:
    say(raw, Retention(failed=1))
    raw.set(f"{Q}:old:lock", "somebody")
    reports, _ = fail(run, raw, "new")
    assert failed(raw) == ["old", "new"]
    assert reports == [[Q, "parked", "failed", "locked", 1]]


def test_a_child_that_keeps_its_parent_waiting_stays(run: Runner, raw: redis.Redis) -> None:
    say(raw, Retention(failed=1))
    seed = Seed(raw)
    seed.job("old", None, parent=seed.job("p", "waiting-children", queue=OTHER))
    reports, _ = fail(run, raw, "new")
    assert failed(raw) == ["old", "new"]
    assert reports == [[Q, "parked", "failed", "blocked", 1]]


@pytest.mark.parametrize(
    "fields", [{"toril": OWN_VALUE}, {"opts": '{"removeOnFail":100}'}], ids=["toril", "bullmq"]
)
def test_one_about_which_something_is_said_is_asked_about(
    run: Runner, raw: redis.Redis, fields: dict[Any, Any]
) -> None:
    say(raw, Retention(failed=1))
    raw.hset(f"{Q}:old", mapping=fields)
    reports, _ = fail(run, raw, "new")
    assert failed(raw) == ["old", "new"]
    assert reports == []
    assert raw.zrange(f"{Q}:toril:cleanup:due:failed", 0, -1) == ["old"]


@pytest.mark.parametrize(
    ("said", "left"),
    [
        ((Retention(failed=1), IdWindow("1h")), f"{Q}:toril:cleanup:taken:@old"),
        ((Retention(failed=Keep(last=1, tombstone="1h")),), f"{Q}:toril:cleanup:tomb:@old"),
    ],
    ids=["id window", "tombstone"],
)
def test_what_is_to_be_left_is_left(
    run: Runner, raw: redis.Redis, said: tuple[Any, ...], left: str
) -> None:
    say(raw, *said)
    fail(run, raw, "new")
    assert failed(raw) == ["new"]
    assert raw.exists(left)


def test_a_ceiling_beats_the_count(run: Runner, raw: redis.Redis) -> None:
    say(raw, Retention(failed=3), Ceiling(failed=1))
    fail(run, raw, "new")
    assert failed(raw) == ["new"]


def test_jobs_with_decisions_do_not_count(run: Runner, raw: redis.Redis) -> None:
    say(raw, Retention(failed=1))
    raw.zadd(f"{Q}:toril:cleanup:own:failed", {"old": NOW - 1000})
    raw.hset(f"{Q}:meta", "toril.cleanup.own.failed", 1)
    fail(run, raw, "new")
    assert failed(raw) == ["old", "new"]
