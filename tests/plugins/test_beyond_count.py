"""A finish in a queue with a count lets the oldest jobs go at once, except those that it may not.

The way of most finishes is Lua of its own (`look.lua`): whatever it does not see to itself it has
to leave to the others.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import zip_longest
from typing import Any

import pytest
import redis
from tests.lua.database import contents
from tests.lua.making import end, finish, node, take
from tests.lua.running import Runner
from tests.lua.seeding import NOW, OTHER, Q, Seed

from toril.hooks.loader import load_plugins
from toril.plugins import Outcome, Said
from toril.protocol.adding import add_jobs
from toril.types import Json
from toril_plugins import Ceiling, Hold, Holds, IdWindow, Keep, Requires, Retention

OWN_VALUE = '{"said":{"retention":[{"v":{"completed":{"age":"1d"},"failed":{"age":"1d"}}}]}}'
ENDS = ("added", "waiting", "active", "failed", "completed", "retries-exhausted", "drained")
"""Events of what happens besides."""


@dataclass
class Here:
    """A queue in which `new` and `newer` are active; `old` has ended as they are going to."""

    raw: redis.Redis
    run: Runner
    outcome: Outcome

    def say(self, *values: Any) -> None:
        """Say something for the queue."""
        for value in values:
            for field, text in type(value).project([Said(value, "queue", "test", NOW)]).items():
                self.raw.hset(f"{Q}:meta", f"toril.{type(value).name}.{field}", text)

    def keep(self, keep: Any) -> Retention:
        return Retention(**{self.outcome: keep})

    def end(
        self, *names: str, wants: Any = frozenset(), plans: Sequence[Any] = ()
    ) -> list[dict[str, str]]:
        """Let jobs end; the events after those of the ends. `plans`: what was planned for each."""
        value = "null" if self.outcome == "completed" else "x"
        finishes = [
            finish(name, kind=self.outcome, value=value, plans=plan and {"cleanup": plan})
            for name, plan in zip_longest(names, plans)
        ]
        assert set(end(self.run, *finishes, wants=wants).codes) == {0}
        assert not self.run.chunk_errors
        told: Any = contents(self.raw)[f"{Q}:events"]
        return [event for event in told if event["event"] not in ENDS]

    @property
    def reports(self) -> list[Json]:
        """What the plugin's Lua has reported."""
        return [report.value for report in self.run.reports]

    @property
    def kept(self) -> list[Any]:
        return list(self.raw.zrange(f"{Q}:{self.outcome}", 0, -1))


@pytest.fixture(params=["completed", "failed"])
def here(request: pytest.FixtureRequest, raw: redis.Redis) -> Here:
    runner = Runner(raw, load_plugins(["persistence", "cleanup"]).chunks)
    runner(add_jobs([node("new"), node("newer")], now=NOW))
    take(runner, 2)
    Seed(raw).job("old", request.param, score=NOW - 1000)
    return Here(raw, runner, request.param)


def test_one_goes_with_an_event_of_its_own(here: Here) -> None:
    here.say(here.keep(1))
    here.raw.rpush(f"{Q}:old:logs", "a line")
    (event,) = here.end("new")
    assert here.kept == ["new"]
    assert here.raw.keys(f"{Q}:old*") == []
    assert here.reports == [[Q, "removed", here.outcome, "queue", 1]]
    assert (event["event"], event["jobId"], event["prev"]) == ("removed", "old", here.outcome)
    assert event["rule"].startswith("queue: ")


def test_several_go_with_one_event(here: Here) -> None:
    here.say(here.keep(1))
    events = here.end("new", "newer")
    assert here.kept == ["newer"]
    assert here.reports == [[Q, "removed", here.outcome, "queue", 2]]
    assert events == [{"event": "toril:evicted", "outcome": here.outcome, "count": "2"}]


def test_of_very_many_the_oldest_go(here: Here) -> None:
    here.say(here.keep(1))
    for n in range(150):
        Seed(here.raw).job(f"{n:03}", here.outcome, score=NOW - 900 + n)
    here.end("new")
    assert here.kept == [*(f"{n:03}" for n in range(99, 150)), "new"]  # a call removes 100
    here.run(add_jobs([node("next")], now=NOW))
    take(here.run)
    here.end("next")
    assert here.kept == ["next"]


def test_below_its_count_nothing_goes(here: Here) -> None:
    here.say(here.keep(3))
    assert here.end("new", "newer") == []
    assert here.reports == []
    assert len(here.kept) == 3


def test_another_outcome_does_not_count(here: Here) -> None:
    here.say(Retention(failed=1) if here.outcome == "completed" else Retention(completed=1))
    here.end("new", "newer")
    assert len(here.kept) == 3


@pytest.mark.parametrize(
    "said",
    [
        Holds(Hold(id="old", why="audit")),
        Holds(Hold(name="send", why="audit")),
        Holds(Hold(data={"customer.id": 7}, why="audit")),
        Requires("archive"),
    ],
    ids=["held by id", "held by name", "held by data", "requires"],
)
def test_what_must_not_go_stays(here: Here, said: Any) -> None:
    here.raw.hset(f"{Q}:old", "data", '{"customer":{"id":7}}')
    here.say(here.keep(1), said)
    here.end("new")
    assert here.raw.exists(f"{Q}:old")
    assert "removed" not in str(here.reports)


def test_a_locked_one_stays(here: Here) -> None:
    here.say(here.keep(1))
    here.raw.set(f"{Q}:old:lock", "somebody")
    here.end("new")
    assert here.kept == ["old", "new"]
    assert here.reports == [[Q, "parked", here.outcome, "locked", 1]]


def test_a_child_that_keeps_its_parent_waiting_stays(here: Here) -> None:
    here.say(here.keep(1))
    seed = Seed(here.raw)
    seed.job("old", None, parent=seed.job("p", "waiting-children", queue=OTHER))
    here.end("new")
    assert here.kept == ["old", "new"]
    assert here.reports == [[Q, "parked", here.outcome, "blocked", 1]]


def test_nothing_is_kept_but_a_failed_child_that_its_parent_waits_for(here: Here) -> None:
    here.say(here.keep(Keep.nothing()))
    seed = Seed(here.raw)
    seed.job("new", None, parent=seed.job("p", "waiting-children", queue=OTHER))
    here.end("new", "newer")
    assert here.kept == (["old"] if here.outcome == "completed" else ["old", "new"])


@pytest.mark.parametrize("keep", [1, 3, Keep("1d"), Keep.nothing()], ids=str)
@pytest.mark.parametrize("hold", [Hold(id="new"), Hold(name="send"), Hold(data={"n": 1})], ids=str)
def test_one_that_is_held_is_held_when_it_ends(here: Here, keep: Any, hold: Hold) -> None:
    here.raw.hset(f"{Q}:new", "data", '{"n":1}')
    here.raw.hset(f"{Q}:old", "name", "receive")
    here.say(here.keep(keep), Holds(hold))
    here.end("new")
    assert here.kept == ["old", "new"]
    assert here.raw.zscore(f"{Q}:{here.outcome}", "new") == 9e15


def test_a_child_whose_parent_has_gone_goes(here: Here) -> None:
    here.say(here.keep(1))
    Seed(here.raw).job("old", None, parent=f"{OTHER}:p")
    here.end("new")
    assert here.kept == ["new"]


@pytest.mark.parametrize("kind", ["toril", "bullmq"])
def test_one_about_which_something_is_said_is_asked_about(here: Here, kind: str) -> None:
    here.say(here.keep(1))
    option = "removeOnComplete" if here.outcome == "completed" else "removeOnFail"
    here.raw.hset(
        f"{Q}:old",
        mapping={"toril": OWN_VALUE} if kind == "toril" else {"opts": f'{{"{option}":100}}'},
    )
    here.end("new")
    assert here.kept == ["old", "new"]
    assert here.reports == []
    assert here.raw.zrange(f"{Q}:toril:cleanup:due:{here.outcome}", 0, -1) == ["old"]


@pytest.mark.parametrize(
    ("keep", "more", "left"),
    [
        (1, (IdWindow("1h"),), "taken"),
        (Keep(last=1, tombstone="1h"), (), "tomb"),
        (Keep(last=1, tombstone="1h"), (IdWindow("1h"),), "taken"),
    ],
    ids=["id window", "tombstone", "id window and tombstone"],
)
def test_what_is_to_be_left_is_left(here: Here, keep: Any, more: Any, left: str) -> None:
    here.say(here.keep(keep), *more)
    here.end("new")
    assert here.kept == ["new"]
    assert here.raw.exists(f"{Q}:toril:cleanup:{left}:@old")


@pytest.mark.parametrize("keep", [Keep(last=1, key="name"), Keep(first=1), Keep(last=1, age="1d")])
def test_what_counts_in_another_way(here: Here, keep: Keep) -> None:
    """Per name nobody has counted `old` yet; the first one that was counted stays."""
    here.say(here.keep(keep))
    here.end("new", "newer")
    expected = {"name": ["old", "newer"], None: ["old", "new"] if keep.first else ["newer"]}
    assert here.kept == expected[keep.key]


def test_a_ceiling_beats_the_count(here: Here) -> None:
    here.say(here.keep(3), Ceiling(**{here.outcome: 1}))
    here.end("new")
    assert here.kept == ["new"]


def test_jobs_with_decisions_do_not_count(here: Here) -> None:
    here.say(here.keep(1))
    here.raw.zadd(f"{Q}:toril:cleanup:own:{here.outcome}", {"old": NOW - 1000})
    here.raw.hset(f"{Q}:meta", f"toril.cleanup.own.{here.outcome}", 1)
    here.end("new")
    assert here.kept == ["old", "new"]


OF_ITS_OWN: Sequence[tuple[dict[str, Any], str, float | None]] = (
    ({"age": 60_000}, "at", NOW + 60_005),
    ({"age": 60_000, "logs": 1_000}, "at", NOW + 1_005),
    ({"age": 60_000, "data": 1_000}, "at", NOW + 1_005),
    ({}, "at", None),
    ({"last": 5}, "nth", 5),
    ({"last": 5, "age": 60_000}, "nth", 5),
    ({"last": 5, "key": "name"}, "bucket", NOW + 5),
    ({"first": 5}, "bucket", NOW + 5),
    ({"last": 5, "group": "g"}, "bucket", NOW + 5),
    ({"age": 0, "flow": True}, "at", NOW + 5),
)


@pytest.mark.parametrize("others", [False, True], ids=["alone", "beside others"])
@pytest.mark.parametrize(("decision", "index", "score"), OF_ITS_OWN, ids=str)
def test_a_decision_of_its_own_is_noted(
    here: Here, decision: dict[str, Any], index: str, score: float | None, others: bool
) -> None:
    ours = f"{Q}:toril:cleanup"
    here.say(here.keep(1))
    if others:
        here.raw.zadd(f"{ours}:own:{here.outcome}", {"old": NOW - 1000})
        here.raw.hset(f"{Q}:meta", f"toril.cleanup.own.{here.outcome}", 1)
    here.end("new", plans=[{"decision": {"rule": "job: x", **decision}}])
    assert here.kept == ["old", "new"]
    assert here.raw.zscore(f"{ours}:own:{here.outcome}", "new") == NOW + 5
    assert here.raw.hexists(f"{ours}:rule:{here.outcome}", "new")
    assert here.raw.hexists(f"{Q}:meta", f"toril.cleanup.own.{here.outcome}")
    (key,) = here.raw.keys(f"{ours}:{index}:{here.outcome}*") or ["none"]
    assert here.raw.zscore(str(key), "new") == score


def test_an_own_count_counts_what_ends_after_it(here: Here) -> None:
    here.say(here.keep(9))
    here.end("new", plans=[{"decision": {"rule": "job: last 1", "last": 1}}])
    assert here.kept == ["old", "new"]
    here.end("newer")
    assert here.kept == ["old", "newer"]


@pytest.mark.parametrize("plan", [{}, {"careful": True}, {"asking": True}], ids=str)
def test_beside_a_decision_of_its_own_others_go(here: Here, plan: dict[str, Any]) -> None:
    here.say(here.keep(1))
    Seed(here.raw).job("older", here.outcome, score=NOW - 2000)
    Seed(here.raw).job("other", here.outcome, score=NOW - 3000)
    here.raw.zadd(f"{Q}:toril:cleanup:own:{here.outcome}", {"other": NOW - 3000})
    here.raw.hset(f"{Q}:meta", f"toril.cleanup.own.{here.outcome}", 1)
    decision = {"rule": "job: 1m", "age": 60_000}
    here.end("new", "newer", plans=[{"decision": decision, **plan}, plan or None])
    live = ["older", "old"] if plan else []
    assert here.kept == ["other", *live, "new", "newer"]


@pytest.mark.parametrize("decision", [{"age": 0}, {"last": 0}])
def test_of_one_nothing_is_to_be_kept(here: Here, decision: dict[str, Any]) -> None:
    here.raw.zadd(f"{Q}:toril:cleanup:own:{here.outcome}", {"old": NOW - 1000})
    here.raw.hset(f"{Q}:meta", f"toril.cleanup.own.{here.outcome}", 1)
    here.end("new", plans=[{"decision": {"rule": "job: nothing", **decision}}])
    assert here.kept == ["old"]


@pytest.mark.parametrize("decision", [None, {"rule": "job: 1m", "age": 60_000}], ids=str)
def test_what_was_decided_at_an_earlier_end_is_forgotten(
    here: Here, decision: dict[str, Any] | None
) -> None:
    here.say(here.keep(2))
    own, due = (f"{Q}:toril:cleanup:{index}:{here.outcome}" for index in ("own", "due"))
    here.raw.zadd(own, {"new": NOW - 5000, "old": NOW - 1000})
    here.raw.zadd(due, {"new": NOW - 4000, "old": NOW - 1000})
    here.raw.hset(f"{Q}:meta", f"toril.cleanup.own.{here.outcome}", 1)
    here.end("new", plans=[decision and {"decision": decision}])
    assert here.raw.zrange(own, 0, -1) == (["old", "new"] if decision else ["old"])
    assert here.raw.zrange(due, 0, -1) == ["old"]


def test_a_job_that_a_slow_clock_ends_is_looked_at(here: Here) -> None:
    """Before the floor all that are there have decisions, so nobody looks there."""
    here.say(here.keep(2))
    here.raw.zadd(f"{Q}:toril:cleanup:own:{here.outcome}", {"old": NOW - 1000})
    floor = f"toril.cleanup.floor.{here.outcome}"
    here.raw.hset(f"{Q}:meta", f"toril.cleanup.own.{here.outcome}", 1)
    here.raw.hset(f"{Q}:meta", floor, NOW + 1000)
    here.end("new")
    assert here.raw.hget(f"{Q}:meta", floor) == str(NOW + 5)


@pytest.mark.parametrize("keep", [1, Keep.nothing()], ids=str)
@pytest.mark.parametrize("plan", [{"careful": True}, {"asking": True}], ids=["careful", "asking"])
def test_where_plugins_have_a_say_nothing_goes_before(here: Here, plan: Any, keep: Any) -> None:
    """They review or copy, somebody only wants a report, or has a strategy, which has been asked
    about the job that ends and not about the others."""
    here.say(here.keep(keep))
    here.end("new", plans=[plan])
    assert here.kept == (["old"] if "asking" in plan and keep != 1 else ["old", "new"])
    assert ("removed" in str(here.reports)) == (len(here.kept) == 1)


def test_who_wants_to_hear_of_removals_hears_of_each(here: Here) -> None:
    here.say(here.keep(1))
    here.end("new", "newer", wants=frozenset({"toril_jobs_removed"}))
    assert here.kept == ["newer"]
    gone = [event for event in here.run.events if type(event).__name__ == "JobRemoved"]
    assert {event.job.id for event in gone} == {"old", "new"}
