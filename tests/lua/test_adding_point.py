"""The point `adding` of the seam: a plugin calls a new job with a given id a duplicate."""

from __future__ import annotations

from typing import Any

import pytest
import redis
from tests.lua.database import contents
from tests.lua.making import Numbers, event_names, node
from tests.lua.running import Runner
from tests.lua.seeding import NOW, OTHER, Q, Seed

from toril.job_events import JobSaved
from toril.protocol.adding import Added, NewNode, add_flow, add_jobs
from toril.protocol.effects import ChunkError
from toril.protocol.large_flows import add_large_flow
from toril_lua import Chunk

TAKEN = """
if ctx.meta('toril.p.on') and redis.call('SISMEMBER', ctx.own('taken'), ctx.id) == 1 then
  ctx.duplicate()
end
"""
WANTS = frozenset({"toril_jobs_saved"})


def chunk(source: str = TAKEN, point: str = "adding") -> Chunk:
    return Chunk("p", point, source, ("toril.p.on",))


@pytest.fixture
def run(raw: redis.Redis) -> Runner:
    for queue in (Q, OTHER):
        raw.hset(f"{queue}:meta", "toril.p.on", "1")
        raw.sadd(f"{queue}:toril:p:taken", "old")
    return Runner(raw, (chunk(),))


def given(id: str, **more: Any) -> NewNode:
    return node(id, given=True, **more)


def add(run: Runner, *nodes: NewNode) -> list[bool]:
    """Add jobs; which of them were duplicates."""
    added: tuple[Added, ...] = run(add_jobs(nodes, now=NOW, wants=WANTS))
    assert not any(one.error for one in added)
    return [one.duplicate for one in added]


def flow(run: Runner, *nodes: NewNode) -> list[bool]:
    added: tuple[Added, ...] = run(add_flow(nodes, now=NOW, wants=WANTS))
    return [one.duplicate for one in added]


def stored(raw: redis.Redis) -> dict[str, Any]:
    """Everything but what the plugin and the queues keep."""
    return {
        key: value
        for key, value in contents(raw).items()
        if not key.endswith((":meta", ":taken", ":marker"))
    }


def test_a_duplicate_leaves_an_event_as_an_existing_job_does(run: Runner, raw: redis.Redis) -> None:
    assert add(run, given("new"), given("old"), given("next")) == [False, True, False]
    assert not raw.exists(f"{Q}:old")
    assert raw.lrange(f"{Q}:wait", 0, -1) == ["next", "new"]
    events = contents(raw)[f"{Q}:events"]
    assert {"event": "duplicated", "jobId": "old"} in events
    assert event_names(events) == ["added", "waiting", "duplicated", "added", "waiting"]
    assert [event.job.id for event in run.events if isinstance(event, JobSaved)] == ["new", "next"]

    raw.hdel(f"{Q}:meta", "toril.p.on")
    assert add(run, given("old")) == [False]


def test_what_it_gets(raw: redis.Redis, seed: Seed) -> None:
    report = """ctx.report({id = ctx.id, key = ctx.key, name = ctx.name, q = ctx.q, now = ctx.now,
        parent = ctx.parent_key})"""
    run = Runner(raw, (chunk(report),))
    parent = seed.job("p", "waiting-children", queue=OTHER)
    add(run, given("a", parent=parent))
    told = {"id": "a", "key": f"{Q}:a", "name": "send", "q": Q, "now": NOW, "parent": parent}
    assert [one.value for one in run.reports] == [told]


def test_asked_only_about_new_jobs_whose_id_was_given(raw: redis.Redis) -> None:
    run = Runner(raw, (chunk("ctx.report(ctx.id)"),))
    add(run, node("made"), given("a"), node("", counter=True), given("a"))
    assert [one.value for one in run.reports] == ["a"]


def test_one_that_breaks_lets_the_job_pass(raw: redis.Redis) -> None:
    run = Runner(raw, (chunk("error('out of order')"),))
    assert add(run, given("a")) == [False]
    ((error),) = run.chunk_errors
    assert isinstance(error, ChunkError)
    assert (error.plugin, error.point) == ("p", "adding")
    assert raw.exists(f"{Q}:a")


def test_it_runs_beside_saved(raw: redis.Redis) -> None:
    run = Runner(raw, (chunk("ctx.duplicate()"), chunk("ctx.report(ctx.id)", "saved")))
    assert add(run, given("a"), node("b")) == [True, False]
    assert [one.value for one in run.reports] == ["b"]


def test_without_a_chunk_the_script_is_as_it_was(raw: redis.Redis) -> None:
    assert add(Runner(raw), given("old")) == [False]


class TestFlows:
    """Nobody waits for a job that was not added."""

    def test_a_child(self, run: Runner, raw: redis.Redis) -> None:
        parent = node("p", is_parent=True, queue=OTHER)
        key = parent.key
        assert flow(run, parent, given("old", parent=key), node("b", parent=key)) == [
            False, True, False,
        ]  # fmt: skip
        assert raw.smembers(f"{key}:dependencies") == {f"{Q}:b"}

    def test_the_only_child(self, run: Runner, raw: redis.Redis) -> None:
        parent = node("p", is_parent=True, queue=OTHER)
        assert flow(run, parent, given("old", parent=parent.key)) == [False, True]
        assert raw.lrange(f"{OTHER}:wait", 0, -1) == ["p"], "its parent runs"
        assert not raw.exists(f"{OTHER}:waiting-children")

    def test_a_child_of_a_job_that_exists(self, run: Runner, raw: redis.Redis, seed: Seed) -> None:
        parent = seed.job("p", "waiting-children", queue=OTHER)
        seed.job("open", parent=parent)
        assert add(run, given("old", parent=parent)) == [True]
        assert raw.smembers(f"{parent}:dependencies") == {f"{Q}:open"}
        assert raw.zscore(f"{OTHER}:waiting-children", "p")

    def test_a_root_with_everything_below_it(
        self, run: Runner, raw: redis.Redis, seed: Seed
    ) -> None:
        seed.job("known", "completed", returnvalue="1")
        before = stored(raw)
        root = given("old", is_parent=True, queue=OTHER)
        middle = node("m", is_parent=True, parent=root.key)
        leaves = [node("l", parent=middle.key), given("known", parent=root.key)]
        assert flow(run, root, middle, *leaves) == [True] * 4
        after = stored(raw)
        assert event_names(after.pop(f"{OTHER}:events")) == ["duplicated"]
        assert after == before

    def test_a_large_flow(self, run: Runner, raw: redis.Redis) -> None:
        """Leaves come in later steps, which do not know what became of the parents."""
        root = node("r", is_parent=True)
        parents = [given(name, is_parent=True, parent=root.key) for name in ("old", "kept")]
        leaves = [
            node(f"{parent.id}{n}", parent=parent.key) for n in range(300) for parent in parents
        ]
        numbers = Numbers()
        added: tuple[Added, ...] = run(
            add_large_flow([root, *parents, *leaves], clock=lambda: NOW, calls=numbers.call)
        )
        assert [one.duplicate for one in added[:3]] == [False, True, False]
        assert sum(one.duplicate for one in added) == 301
        assert raw.smembers(f"{Q}:r:dependencies") == {f"{Q}:kept"}
        assert raw.scard(f"{Q}:kept:dependencies") == 300
        assert not raw.keys(f"{Q}:old*")
        assert raw.llen(f"{Q}:wait") == 300
