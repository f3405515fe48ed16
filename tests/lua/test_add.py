"""`add`: what it writes, for each kind of job."""

from __future__ import annotations

import json
from typing import Any

import pytest
import redis
from tests.lua.database import changes, contents
from tests.lua.making import Numbers, end, event_names, finish, node, take
from tests.lua.running import Runner
from tests.lua.seeding import NOW, OTHER, Q, Seed

from toril.errors import InvalidJob, ParentError
from toril.job_events import JobSaved
from toril.protocol.adding import Added, add_flow, add_flows, add_jobs
from toril.protocol.effects import SAVED
from toril.protocol.large_flows import add_large_flow

META = {"opts.maxLenEvents": "10000"}


def job_hash(**more: str) -> dict[str, str]:
    fields = {"name": "send", "data": "{}", "opts": '{"attempts":0}', "delay": "0"}
    return {**fields, "timestamp": str(NOW), "priority": "0", **more}


def test_a_standard_job(run: Runner, raw: redis.Redis) -> None:
    assert run(add_jobs([node("j1")], now=NOW)) == (Added("j1", duplicate=False),)
    assert contents(raw) == {
        f"{Q}:j1": job_hash(),
        f"{Q}:wait": ["j1"],
        f"{Q}:marker": {"0": 0.0},
        f"{Q}:meta": META,
        f"{Q}:events": [
            {"event": "added", "jobId": "j1", "name": "send"},
            {"event": "waiting", "jobId": "j1"},
        ],
    }


def test_fifo_and_lifo(run: Runner, raw: redis.Redis) -> None:
    run(add_jobs([node("a"), node("b"), node("c", opts={"lifo": True})], now=NOW))
    assert raw.lrange(f"{Q}:wait", 0, -1) == ["b", "a", "c"]  # c is the next to be taken
    assert json.loads(raw.hget(f"{Q}:c", "opts") or "") == {"attempts": 0, "lifo": True}


def test_delayed_jobs_of_one_millisecond_keep_their_order(run: Runner, raw: redis.Redis) -> None:
    nodes = [node(name, opts={"delay": 60_000}) for name in ("z", "a", "m")]
    run(add_jobs(nodes, now=NOW))
    due = NOW + 60_000
    assert raw.zrange(f"{Q}:delayed", 0, -1, withscores=True) == [
        ("z", due * 4096),
        ("a", due * 4096 + 1),
        ("m", due * 4096 + 2),
    ]
    assert raw.zrange(f"{Q}:marker", 0, -1, withscores=True) == [("1", float(due))]
    assert raw.hget(f"{Q}:z", "delay") == "60000"
    events = contents(raw)[f"{Q}:events"]
    assert events[1] == {"event": "delayed", "jobId": "z", "delay": str(due)}
    assert event_names(events) == ["added", "delayed"] * 3


def test_prioritised_jobs(run: Runner, raw: redis.Redis) -> None:
    nodes = [node(f"p{p}", opts={"priority": p}) for p in (7, 1, 7)]
    nodes[2] = node("p7b", opts={"priority": 7})
    run(add_jobs(nodes, now=NOW))
    assert raw.zrange(f"{Q}:prioritized", 0, -1, withscores=True) == [
        ("p1", 1 * 2**32 + 2),
        ("p7", 7 * 2**32 + 1),
        ("p7b", 7 * 2**32 + 3),
    ]
    assert raw.get(f"{Q}:pc") == "3"
    assert raw.zscore(f"{Q}:marker", "0") == 0


def test_a_paused_queue_gets_no_marker(run: Runner, raw: redis.Redis) -> None:
    raw.hset(f"{Q}:meta", "paused", "1")
    run(add_jobs([node("j"), node("d", opts={"delay": 5})], now=NOW))
    assert raw.lrange(f"{Q}:wait", 0, -1) == ["j"]
    assert raw.zscore(f"{Q}:marker", "0") is None
    assert raw.zscore(f"{Q}:marker", "1") == NOW + 5


def test_a_maxed_queue_gets_no_marker(run: Runner, raw: redis.Redis) -> None:
    raw.hset(f"{Q}:meta", "concurrency", "1")
    raw.lpush(f"{Q}:active", "running")
    run(add_jobs([node("j")], now=NOW))
    assert not raw.exists(f"{Q}:marker")


def test_the_counter_gives_ids_only_when_asked(run: Runner, raw: redis.Redis, seed: Seed) -> None:
    seed.job("2", None)  # somebody took the number by hand
    added = run(add_jobs([node("", counter=True), node("", counter=True)], now=NOW))
    assert [one.id for one in added] == ["1", "3"]
    assert raw.get(f"{Q}:id") == "3"
    run(add_jobs([node("own")], now=NOW))
    assert raw.get(f"{Q}:id") == "3"


def test_the_own_field_and_texts_byte_for_byte(run: Runner, raw: redis.Redis) -> None:
    data = '{"a":"ä\\u0000\\"","b":[1.0,1e3]}'
    run(add_jobs([node("j", data=data, name="näme", own={"plugins": {"p": [1]}})], now=NOW))
    stored = raw.hgetall(f"{Q}:j")
    assert (stored["data"], stored["name"]) == (data, "näme")
    assert json.loads(stored["toril"]) == {"plugins": {"p": [1]}}


def test_an_existing_id_changes_nothing(run: Runner, raw: redis.Redis) -> None:
    run(add_jobs([node("j", data="1")], now=NOW))
    before = contents(raw)
    added = run(add_jobs([node("j", data="2"), node("k")], now=NOW))
    assert added == (Added("j", duplicate=True), Added("k", duplicate=False))
    changed = changes(before, contents(raw))
    assert sorted(changed) == [f"{Q}:events", f"{Q}:k", f"{Q}:wait"]
    assert event_names(changed[f"{Q}:events"][2:]) == ["duplicated", "added", "waiting"]


def test_saved_events_tell_only_of_what_was_saved(run: Runner) -> None:
    wants = frozenset({"toril_jobs_saved"})
    run(add_jobs([node("j")], now=NOW))
    assert run.events == []
    run(add_jobs([node("j"), node("k", data='{"a":1}', own={"x": 1})], now=NOW, wants=wants))
    (event,) = run.events
    assert isinstance(event, JobSaved)
    job = event.job
    assert (job.queue, job.id, job.name, job.data) == ("mail", "k", "send", {"a": 1})
    assert (job.created, job.attempts, job.parent) == (NOW, 0, None)


@pytest.mark.parametrize(
    ("option", "flag"),
    [
        ("failParentOnFailure", "fpof"),
        ("continueParentOnFailure", "cpof"),
        ("ignoreDependencyOnFailure", "idof"),
        ("removeDependencyOnFailure", "rdof"),
    ],
)
def test_a_child_of_an_existing_parent(
    run: Runner, raw: redis.Redis, seed: Seed, option: str, flag: str
) -> None:
    parent = seed.job("p", "active", queue=OTHER)
    run(add_jobs([node("c", parent=parent, opts={option: True})], now=NOW))
    assert raw.smembers(f"{parent}:dependencies") == {f"{Q}:c"}
    stored = raw.hgetall(f"{Q}:c")
    assert stored["parentKey"] == parent
    assert json.loads(stored["parent"]) == {"id": "p", "queueKey": OTHER, flag: True}
    assert json.loads(stored["opts"]) == {"attempts": 0, flag: True}


def test_two_policies_are_refused(run: Runner) -> None:
    opts: Any = {"failParentOnFailure": True, "removeDependencyOnFailure": True}
    with pytest.raises(InvalidJob, match="only one of"):
        add_jobs([node("c", parent=f"{Q}:p", opts=opts)], now=NOW)


def test_a_missing_parent_refuses_its_child_alone(run: Runner, raw: redis.Redis) -> None:
    added = run(add_jobs([node("c", parent=f"{OTHER}:gone"), node("j")], now=NOW))
    assert isinstance(added[0].error, ParentError)
    assert added[1].error is None
    assert not raw.exists(f"{Q}:c", f"{OTHER}:gone:dependencies")


class TestAnExistingJobBecomesAChild:
    def test_waiting(self, run: Runner, raw: redis.Redis, seed: Seed) -> None:
        parent, child = seed.job("p", "waiting-children", queue=OTHER), seed.job("c")
        assert run(add_jobs([node("c", parent=parent)], now=NOW))[0].duplicate
        assert raw.smembers(f"{parent}:dependencies") == {child}
        assert raw.hget(child, "parentKey") == parent

    def test_completed(self, run: Runner, raw: redis.Redis, seed: Seed) -> None:
        parent = seed.job("p", "waiting-children", queue=OTHER)
        child = seed.job("c", "completed", returnvalue='{"r":1}')
        run(add_jobs([node("c", parent=parent)], now=NOW))
        assert raw.hgetall(f"{parent}:processed") == {child: '{"r":1}'}
        assert raw.lrange(f"{OTHER}:wait", 0, -1) == ["p"]  # it was the only one

    def test_of_a_parent_that_is_gone(self, run: Runner, raw: redis.Redis, seed: Seed) -> None:
        child = seed.job("c", parent=f"{OTHER}:gone")
        parent = seed.job("p", "waiting-children", queue=OTHER)
        assert run(add_jobs([node("c", parent=parent)], now=NOW))[0].error is None
        assert raw.hget(child, "parentKey") == parent

    def test_of_another_living_parent(self, run: Runner, raw: redis.Redis, seed: Seed) -> None:
        first, second = (seed.job(name, "waiting-children", queue=OTHER) for name in ("p", "q"))
        child = seed.job("c", parent=first)
        added = run(add_jobs([node("c", parent=second)], now=NOW))
        assert isinstance(added[0].error, ParentError)
        assert raw.hget(child, "parentKey") == first
        assert not raw.exists(f"{second}:dependencies")


class TestFlow:
    def test_parents_wait_for_children_of_several_queues(
        self, run: Runner, raw: redis.Redis
    ) -> None:
        nodes = [
            node("root", is_parent=True),
            node("mid", OTHER, f"{Q}:root", is_parent=True, opts={"priority": 3}),
            node("leaf", Q, f"{OTHER}:mid"),
        ]
        run(add_flow(nodes, now=NOW))
        found = contents(raw)
        assert found[f"{Q}:waiting-children"] == {"root": NOW}
        assert found[f"{OTHER}:waiting-children"] == {"mid": NOW}
        assert found[f"{Q}:root:dependencies"] == {f"{OTHER}:mid"}
        assert found[f"{OTHER}:mid:dependencies"] == {f"{Q}:leaf"}
        assert found[f"{Q}:wait"] == ["leaf"]
        assert event_names(found[f"{OTHER}:events"]) == ["added", "waiting-children"]
        assert f"{OTHER}:marker" not in found

    def test_another_living_parent_refuses_the_whole_flow(
        self, run: Runner, raw: redis.Redis, seed: Seed
    ) -> None:
        seed.job("taken", parent=seed.job("p", "waiting-children", queue=OTHER))
        before = contents(raw)
        nodes = [node("root", is_parent=True)]
        nodes += [node(name, parent=f"{Q}:root") for name in ("fresh", "taken")]
        with pytest.raises(ParentError, match="taken"):
            run(add_flow(nodes, now=NOW))
        assert contents(raw) == before

    def test_a_missing_parent_of_the_root_refuses_it(self, run: Runner, raw: redis.Redis) -> None:
        nodes = [node("root", parent=f"{OTHER}:gone", is_parent=True)]
        nodes += [node("leaf", parent=f"{Q}:root")]
        with pytest.raises(ParentError, match="root"):
            run(add_flow(nodes, now=NOW))
        assert contents(raw) == {}

    def test_a_completed_leaf_does_not_release_before_its_siblings_are_there(
        self, run: Runner, raw: redis.Redis, seed: Seed
    ) -> None:
        seed.job("done", "completed", returnvalue="1")
        nodes = [node("root", is_parent=True)]
        nodes += [node(name, parent=f"{Q}:root") for name in ("done", "open")]
        run(add_flow(nodes, now=NOW))
        assert raw.zscore(f"{Q}:waiting-children", "root") == NOW
        assert raw.hgetall(f"{Q}:root:processed") == {f"{Q}:done": "1"}
        assert raw.smembers(f"{Q}:root:dependencies") == {f"{Q}:open"}

    def test_completed_leaves_alone_release(
        self, run: Runner, raw: redis.Redis, seed: Seed
    ) -> None:
        seed.job("done", "completed", returnvalue="1")
        run(add_flow([node("root", is_parent=True), node("done", parent=f"{Q}:root")], now=NOW))
        assert raw.lrange(f"{Q}:wait", 0, -1) == ["root"]

    def test_200_nodes_in_one_call(self, run: Runner, raw: redis.Redis) -> None:
        nodes = [node("root", is_parent=True)]
        nodes += [node(f"c{i}", OTHER, f"{Q}:root") for i in range(199)]
        run(add_flow(nodes, now=NOW))
        assert raw.scard(f"{Q}:root:dependencies") == raw.llen(f"{OTHER}:wait") == 199
        with pytest.raises(ValueError, match="200"):
            add_flow([*nodes, node("more", parent=f"{Q}:root")], now=NOW)


def flow(root: str, *children: str, queue: str = OTHER, parent: str | None = None) -> list[Any]:
    kids = [node(child, queue, f"{Q}:{root}") for child in children]
    return [node(root, Q, parent, is_parent=bool(kids)), *kids]


class TestFlowsInOneCall:
    def test_they_are_as_if_added_one_after_another(self, run: Runner, raw: redis.Redis) -> None:
        flows = [flow("r1", "a", "b"), flow("r2", "c", queue=Q), flow("r3"), flow("r4", "d")]
        for one in flows:
            run(add_flow(one, now=NOW))
        alone = contents(raw)
        raw.flushall()
        added = run(add_flows(flows, now=NOW))
        assert [(one.id, one.duplicate, one.error) for one in added] == [
            (one.id, False, None) for each in flows for one in each
        ]
        assert contents(raw) == alone

    def test_a_later_one_may_stand_below_an_earlier_one(
        self, run: Runner, raw: redis.Redis
    ) -> None:
        flows = [flow("r1", "a"), flow("r2", "b", parent=f"{Q}:r1")]
        run(add_flows(flows, now=NOW))
        assert raw.smembers(f"{Q}:r1:dependencies") == {f"{OTHER}:a", f"{Q}:r2"}

    def test_after_one_that_is_refused_none_is_added(
        self, run: Runner, raw: redis.Redis, seed: Seed
    ) -> None:
        def taken() -> None:
            seed.job("taken", parent=seed.job("p", "waiting-children"), queue=OTHER)

        taken()
        run(add_flow(flow("r1", "a"), now=NOW))
        alone = contents(raw)
        raw.flushall()
        taken()
        flows = [flow("r1", "a"), flow("r2", "fresh", "taken"), flow("r3", "c")]
        added = run(add_flows(flows, now=NOW, wants=frozenset({SAVED})))
        assert contents(raw) == alone
        assert [one.error is None for one in added] == [True] * 2 + [False] * 5
        assert {type(one.error) for one in added[2:]} == {ParentError}
        assert [event.job.id for event in run.events] == ["r1", "a"]

    def test_if_the_first_is_refused_nothing_is_written(
        self, run: Runner, raw: redis.Redis
    ) -> None:
        with pytest.raises(ParentError, match="r1"):
            run(add_flows([flow("r1", parent=f"{Q}:gone"), flow("r2", "a")], now=NOW))
        assert contents(raw) == {}

    def test_garbled_keys_of_one_harm_none_before_it(self, run: Runner, raw: redis.Redis) -> None:
        raw.set("bull:third:wait", "a text")
        flows = [flow("r1", "a", "b"), flow("r2", "c", queue="bull:third"), flow("r3", "d")]
        added = run(add_flows(flows, now=NOW))
        assert [one.error is None for one in added] == [True] * 3 + [False] * 4
        assert raw.lrange(f"{OTHER}:wait", 0, -1) == ["b", "a"]
        assert raw.smembers(f"{Q}:r1:dependencies") == {f"{OTHER}:a", f"{OTHER}:b"}
        assert not raw.exists("bull:third:c", f"{Q}:r3", f"{OTHER}:d")

    def test_what_one_call_does_not_take(self) -> None:
        with pytest.raises(ValueError, match="200"):
            add_flows([flow(f"r{n}", "a") for n in range(101)], now=NOW)
        with pytest.raises(ValueError, match="200"):
            add_flows([flow("r"), []], now=NOW)
        with pytest.raises(ValueError, match="several queues"):
            add_flows([flow("r"), [node("s", OTHER)]], now=NOW)


class TestLargeFlow:
    def nodes(self, children: int) -> list[Any]:
        nodes = [node("root", is_parent=True)]
        nodes += [node(f"m{i}", OTHER, f"{Q}:root", is_parent=True) for i in range(3)]
        return nodes + [node(f"c{i}", Q, f"{OTHER}:m{i % 3}") for i in range(children)]

    def test_all_is_there_in_the_end(self, run: Runner, raw: redis.Redis) -> None:
        nodes = self.nodes(5000)
        wants = frozenset({"toril_jobs_saved"})
        added = run(add_large_flow(nodes, clock=lambda: NOW, calls=Numbers().call, wants=wants))
        assert [one.id for one in added] == [one.id for one in nodes]
        assert len(run.events) == len(nodes)
        assert raw.llen(f"{Q}:wait") == 5000
        assert sum(raw.scard(f"{OTHER}:m{i}:dependencies") for i in range(3)) == 5000
        assert not raw.keys(f"{Q}:toril:flows*")

    def test_no_parent_is_released_although_children_end_meanwhile(
        self, run: Runner, raw: redis.Redis
    ) -> None:
        procedure = add_large_flow(self.nodes(600), clock=lambda: NOW, calls=Numbers().call)
        answer: Any = None
        listed = 0
        try:
            while True:
                answer = run(procedure.send(answer))
                listed += raw.zscore(f"{Q}:toril:flows", "root") == NOW + 60_000
                jobs = take(run, 100).jobs
                end(run, *(finish(job) for job in jobs))
                children = raw.llen(f"{Q}:wait") + raw.zcard(f"{Q}:completed")
                if children and raw.zcard(f"{Q}:completed") < 600:
                    waiting = raw.zcard(f"{OTHER}:waiting-children")
                    still = sum(raw.exists(f"{OTHER}:m{i}:dependencies") for i in range(3))
                    assert waiting == still == 3
        except StopIteration:
            pass
        assert listed > 3
        while jobs := take(run, 100).jobs:
            end(run, *(finish(job) for job in jobs))
        assert raw.llen(f"{OTHER}:wait") == 3

    def test_an_objection_to_a_late_node_comes_before_anything_is_written(
        self, run: Runner, raw: redis.Redis, seed: Seed
    ) -> None:
        seed.job("c599", parent=seed.job("p", "waiting-children", queue=OTHER))
        before = contents(raw)
        with pytest.raises(ParentError, match="c599"):
            run(add_large_flow(self.nodes(600), clock=lambda: NOW, calls=Numbers().call))
        assert contents(raw) == before

    def test_a_completed_leaf_counts_as_done(
        self, run: Runner, raw: redis.Redis, seed: Seed
    ) -> None:
        seed.job("c0", "completed", returnvalue="7")
        run(add_large_flow(self.nodes(600), clock=lambda: NOW, calls=Numbers().call))
        assert raw.hgetall(f"{OTHER}:m0:processed") == {f"{Q}:c0": "7"}
        assert raw.scard(f"{OTHER}:m0:dependencies") == 199


@pytest.mark.parametrize("count", [0, 201])
def test_too_few_and_too_many_are_refused(count: int) -> None:
    with pytest.raises(ValueError, match="200"):
        add_jobs([node(f"j{i}") for i in range(count)], now=NOW)


def test_jobs_of_two_queues_are_refused() -> None:
    with pytest.raises(ValueError, match="several queues"):
        add_jobs([node("a"), node("b", OTHER)], now=NOW)


def test_the_keys_are_the_queues_the_root_s_first() -> None:
    nodes = [node("root", is_parent=True), node("c", OTHER, f"{Q}:root"), node("d", Q, f"{Q}:root")]
    assert add_flow(nodes, now=NOW).keys == (Q, OTHER)
