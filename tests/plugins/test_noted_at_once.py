"""What was decided about jobs is written down on a short path (`look.lua`) where it can be, and
else by the chunk, which knows all cases: what they leave is the same."""

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
from toril_plugins import Hold, Holds, Keep, Retention
from toril_plugins.cleanup.deciding import Decision

DECISIONS = [
    Decision(keep, rule)
    for rule in ("job: words", "plugin p: words")
    for keep in (
        Keep(age="7d"),
        Keep(age="7d", logs="1h"),
        Keep(age="7d", logs="30s", data="1h"),
        Keep(data="1h"),
        Keep(age="7d", tombstone="30d"),
        Keep.forever(),
        Keep(age="7d", last=2),
        Keep(last=2),
        Keep(first=1),
        Keep(age="7d", key="name", last=1),
        Keep(age="7d", group="g", last=1),
        Keep(age="7d", flow=True),
        Keep(age="0s"),
        Keep.nothing(),
    )
]
NAMES = ("first", "new", "newer")


def say(raw: redis.Redis, value: Any) -> None:
    for field, text in type(value).project([Said(value, "queue", "test", NOW)]).items():
        raw.hset(f"{Q}:meta", f"toril.{type(value).name}.{field}", text)


def left(
    raw: redis.Redis, *plans: Decision | None, closely: bool = False, before: bool = False
) -> dict[str, Any]:
    """What a queue holds after `new` and `newer` have ended in one call, each with its plan.

    `closely`: by the chunk. `before`: `new` had ended before, with a count of its own.
    """
    raw.flushall()
    run = Runner(raw, load_plugins(["persistence", "cleanup"]).chunks)
    run(add_jobs([node(name) for name in NAMES], now=NOW))
    take(run, 3)
    Seed(raw).job("old", "completed", score=NOW - 1000)
    say(raw, Retention(completed=5))
    if closely:
        say(raw, Holds(Hold(data={"to": "nobody"}, why="audit")))
    once = {"cleanup": {"decision": Decision(Keep(age="1h"), "job: words").encode()}}
    end(run, finish("first", plans=once))
    if before:
        raw.zadd(f"{Q}:toril:cleanup:own:completed", {"new": NOW - 5})
        raw.zadd(f"{Q}:toril:cleanup:nth:completed", {"new": 7})
    ends = [
        finish(name, plans={"cleanup": {"decision": plan.encode()}} if plan else None)
        for name, plan in zip(("new", "newer"), plans, strict=True)
    ]
    assert end(run, *ends).codes == (0, 0)
    assert not run.chunk_errors
    found = contents(raw)
    del found[f"{Q}:meta"], found[f"{Q}:events"]
    return {key: value for key, value in found.items() if ":toril:call" not in key}


@pytest.mark.parametrize("decision", DECISIONS, ids=lambda each: f"{each.rule[:3]}-{each.keep}")
def test_the_short_path_leaves_the_same(raw: redis.Redis, decision: Decision) -> None:
    for plans in ((decision, decision), (decision, None), (None, decision)):
        assert left(raw, *plans) == left(raw, *plans, closely=True)


def test_what_was_written_down_before_is_forgotten(raw: redis.Redis) -> None:
    plans = (DECISIONS[0], None)
    found = left(raw, *plans, before=True)
    assert found == left(raw, *plans, closely=True, before=True)
    assert f"{Q}:toril:cleanup:nth:completed" not in found


def test_a_child_that_is_not_kept_is_looked_at(raw: redis.Redis) -> None:
    """Its parent waits for it, or for another: the script has to look."""
    run = Runner(raw, load_plugins(["persistence", "cleanup"]).chunks)
    run(add_jobs([node("new"), node("newer")], now=NOW))
    take(run, 2)
    seed = Seed(raw)
    parent = seed.job("p", "waiting-children", queue=OTHER)
    raw.hset(f"{Q}:new", "parentKey", parent)
    raw.sadd(f"{parent}:dependencies", f"{Q}:new", f"{Q}:more")
    say(raw, Retention(failed=Keep.nothing(), completed=Keep.nothing()))
    told: Any = run.reports
    end(run, finish("new"), finish("newer", kind="failed", value="x"))
    assert not run.chunk_errors
    assert raw.zrange(f"{Q}:completed", 0, -1) == raw.zrange(f"{Q}:failed", 0, -1) == []
    assert [report.value[1:] for report in told] == [
        ["removed", "failed", "queue", 1],
        ["removed", "completed", "queue", 1],
    ]
