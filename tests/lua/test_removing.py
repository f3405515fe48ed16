from __future__ import annotations

import json

import pytest
import redis
from tests.lua.conftest import fill
from tests.lua.database import changes, contents, events
from tests.lua.running import Runner
from tests.lua.seeding import NOW, OTHER, Q, Seed

from toril.errors import JobLocked, JobNotFound, JobStateError
from toril.job_events import JobRemoved
from toril.protocol.changing import update_data
from toril.protocol.effects import REMOVED
from toril.protocol.reading import job
from toril.protocol.trees import remove_job
from toril_lua.catalogue import Chunk

WANTED = frozenset({REMOVED})


def remove(run: Runner, id: str, *, children: bool = False, queue: str = Q) -> bool:
    removal = remove_job(queue, id, with_children=children, now=NOW, wants=WANTED)
    existed: bool = run(removal)
    return existed


@pytest.mark.parametrize(
    ("place", "state"),
    [
        ("completed", "completed"),
        ("waiting-children", "waiting-children"),
        ("delayed", "delayed"),
        ("failed", "failed"),
        ("prioritized", "prioritized"),
        ("wait", "waiting"),
        ("paused", "waiting"),
        ("active", "active"),
        (None, "unknown"),
    ],
)
def test_everything_of_a_job_goes(
    run: Runner, seed: Seed, raw: redis.Redis, place: str | None, state: str
) -> None:
    seed.job("other", place or "wait")
    before = contents(raw)
    key = seed.job("j", place, data="[1]", deid="d")
    raw.rpush(f"{key}:logs", "line")
    raw.sadd(f"{key}:dependencies", "bull:steps:c")
    raw.hset(f"{key}:processed", "bull:steps:c", "1")
    raw.hset(f"{key}:failed", "bull:steps:c", "1")
    raw.zadd(f"{key}:unsuccessful", {"bull:steps:c": 1})
    raw.set(f"{Q}:de:d", "j")
    raw.hset(f"{Q}:dn:d", "jid", "next")
    raw.zadd(f"{Q}:toril:deferred", {f"{Q}:j": NOW})
    assert remove(run, "j") is True
    after = contents(raw)
    after.pop(f"{Q}:marker", None)
    prev = place or "unknown"
    assert changes(before, after) == {
        f"{Q}:events": [{"event": "removed", "jobId": "j", "prev": prev}],
        f"{Q}:meta": {"opts.maxLenEvents": "10000"},
    }
    [event] = run.events
    assert isinstance(event, JobRemoved)
    assert (event.job.queue, event.job.id, event.job.data) == ("mail", "j", [1])
    assert (event.state, event.cause, event.rule, event.plugin) == (state, "operator", None, None)


def test_a_window_of_another_job_stays(run: Runner, seed: Seed, raw: redis.Redis) -> None:
    seed.job("j", deid="d")
    raw.set(f"{Q}:de:d", "somebody else")
    remove(run, "j")
    assert raw.get(f"{Q}:de:d") == "somebody else"


def test_nobody_listening_costs_no_snapshot(run: Runner, seed: Seed) -> None:
    seed.job("j")
    run(remove_job(Q, "j", with_children=False, now=NOW))
    assert run.events == []


def test_an_id_without_a_job_leaves_its_set(run: Runner, seed: Seed, raw: redis.Redis) -> None:
    seed.put("ghost", "wait")
    assert remove(run, "ghost") is False
    assert remove(run, "nobody") is False
    assert contents(raw) == {}
    assert run.events == []


def test_a_garbled_job_goes_all_the_same(run: Runner, seed: Seed, raw: redis.Redis) -> None:
    raw.set(f"{Q}:j", "a string")
    raw.set(f"{Q}:j:dependencies", "a string")
    raw.set(f"{Q}:j:logs", "a string")
    seed.put("j", "wait")
    seed.job("k", parentKey=f"{Q}:p", deid="d")
    raw.hset(f"{Q}:k", "parent", "no json")
    raw.set(f"{Q}:p:dependencies", "a string")
    raw.hset(f"{Q}:de:d", "not", "a string")
    assert remove(run, "j", children=True) is True
    assert remove(run, "k") is True
    assert contents(raw).keys() == {
        f"{Q}:events",
        f"{Q}:meta",
        f"{Q}:p:dependencies",
        f"{Q}:de:d",
    }


@pytest.mark.parametrize("id", ["wait", "meta", "", "j:logs", "repeat:daily", "de:d"])
def test_other_keys_are_no_jobs(run: Runner, seed: Seed, raw: redis.Redis, id: str) -> None:
    key = seed.job("j")
    raw.rpush(f"{key}:logs", "line")
    raw.hset(f"{Q}:meta", "version", "1")
    raw.hset(f"{Q}:repeat:daily", "name", "n")
    raw.set(f"{Q}:de:d", "j")
    before = contents(raw)
    assert remove(run, id) is False
    assert run(job(Q, id)) is None if id in {"meta", "repeat:daily"} else True
    with pytest.raises(JobNotFound):
        run(update_data(Q, id, "1"))
    assert changes(before, contents(raw)) == {}


def test_a_locked_job_stays(run: Runner, seed: Seed, raw: redis.Redis) -> None:
    key = seed.job("j", "active")
    raw.set(f"{key}:lock", "token")
    before = contents(raw)
    with pytest.raises(JobLocked):
        remove(run, "j")
    assert changes(before, contents(raw)) == {}


def test_removing_an_active_job_wakes_a_worker(run: Runner, seed: Seed, raw: redis.Redis) -> None:
    raw.hset(f"{Q}:meta", "concurrency", 1)
    seed.job("j", "active")
    seed.job("k")
    remove(run, "j")
    assert contents(raw)[f"{Q}:marker"] == {"0": 0}


def test_the_iteration_a_schedule_waits_for_stays(
    run: Runner, seed: Seed, raw: redis.Redis
) -> None:
    raw.zadd(f"{Q}:repeat", {"daily": NOW})
    for ms in (NOW, NOW - 1000):
        seed.job(f"repeat:daily:{ms}", "delayed", rjk="daily")
    before = contents(raw)
    with pytest.raises(JobStateError, match="schedule"):
        remove(run, f"repeat:daily:{NOW}")
    assert changes(before, contents(raw)) == {}
    assert remove(run, f"repeat:daily:{NOW - 1000}") is True


def test_the_last_open_child_lets_its_parent_run(run: Runner, seed: Seed, raw: redis.Redis) -> None:
    parent = seed.job("p", "waiting-children", queue=OTHER, priority=5, delay=1000)
    for name in ("a", "b"):
        seed.job(name, parent=parent)
    remove(run, "a")
    assert raw.zscore(f"{OTHER}:waiting-children", "p") is not None
    remove(run, "b")
    after = contents(raw)
    assert f"{OTHER}:waiting-children" not in after
    assert f"{parent}:dependencies" not in after
    # At the end from which workers take; its priority and delay are not looked at.
    assert after[f"{OTHER}:wait"] == ["p"]
    assert after[f"{OTHER}:marker"] == {"0": 0}
    assert events(raw, OTHER) == [{"event": "waiting", "jobId": "p", "prev": "waiting-children"}]
    assert [event.job.id for event in run.events] == ["a", "b"]


def test_a_parent_that_is_not_waiting_only_loses_the_child(
    run: Runner, seed: Seed, raw: redis.Redis
) -> None:
    parent = seed.job("p", "active")
    seed.job("c", parent=parent)
    remove(run, "c")
    after = contents(raw)
    assert (after[f"{Q}:active"], f"{Q}:wait" in after) == (["p"], False)
    assert f"{parent}:dependencies" not in after


def test_a_finished_child_leaves_its_trace_in_the_parent(
    run: Runner, seed: Seed, raw: redis.Redis
) -> None:
    parent = seed.job("p", "waiting-children")
    seed.job("open", parent=parent)
    key = seed.job("c", "completed", parent=parent)
    raw.srem(f"{parent}:dependencies", key)
    raw.hset(f"{parent}:processed", key, "1")
    remove(run, "c")
    assert raw.hgetall(f"{parent}:processed") == {key: "1"}
    assert raw.zscore(f"{Q}:waiting-children", "p") is not None


def family(seed: Seed, raw: redis.Redis) -> None:
    """root ← open (← grandchild), done, ignored, unsuccessful; in three queues."""
    root = seed.job("root", "waiting-children")
    middle = seed.job("open", "waiting-children", queue=OTHER, parent=root)
    seed.job("grandchild", queue="bull:third", parent=middle)
    done = seed.job("done", "completed", queue=OTHER, parent=root)
    ignored = seed.job("ignored", "failed", queue=OTHER, parent=root)
    failed = seed.job("broken", "failed", queue=OTHER, parent=root)
    raw.srem(f"{root}:dependencies", done, ignored, failed)
    raw.hset(f"{root}:processed", mapping={done: "1", f"{OTHER}:long-gone": "2"})
    raw.hset(f"{root}:failed", ignored, "why")
    raw.zadd(f"{root}:unsuccessful", {failed: NOW})


def test_children_stay_without_request(run: Runner, seed: Seed, raw: redis.Redis) -> None:
    family(seed, raw)
    remove(run, "root")
    assert not raw.keys(f"{Q}:root*")
    assert raw.hget(f"{OTHER}:open", "parentKey") == f"{Q}:root"


def test_children_go_on_request(run: Runner, seed: Seed, raw: redis.Redis) -> None:
    family(seed, raw)
    raw.set(f"{OTHER}:done:lock", "a lock on a finished child protects nothing")
    assert remove(run, "root", children=True) is True
    left = {key.rpartition(":")[2] for key in contents(raw)}
    assert left == {"events", "meta", "lock", "marker"}
    assert len(run.requests) == 1
    removed = {event.job.id: event for event in run.events if isinstance(event, JobRemoved)}
    assert removed.keys() == {"root", "open", "grandchild", "done", "ignored", "broken"}
    assert removed["root"].cause == "operator"
    assert {event.cause for name, event in removed.items() if name != "root"} == {"parent"}
    assert removed["grandchild"].job.queue == "third"
    # The last child that goes releases its parent, before that goes too: as with BullMQ.
    assert events(raw, Q) == [
        {"event": "waiting", "jobId": "root", "prev": "waiting-children"},
        {"event": "removed", "jobId": "root", "prev": "wait"},
    ]
    assert events(raw, "bull:third") == [
        {"event": "removed", "jobId": "grandchild", "prev": "wait"}
    ]


def test_a_locked_open_grandchild_keeps_all(run: Runner, seed: Seed, raw: redis.Redis) -> None:
    family(seed, raw)
    raw.set("bull:third:grandchild:lock", "token")
    before = contents(raw)
    with pytest.raises(JobLocked):
        remove(run, "root", children=True)
    assert changes(before, contents(raw)) == {}


def test_a_job_that_runs_below_a_finished_child_goes_with_its_lock(
    run: Runner, seed: Seed, raw: redis.Redis
) -> None:
    """As with BullMQ, where the lock stays: here the worker learns of it when it renews."""
    root = seed.job("root", "waiting-children")
    done = seed.job("done", "completed", queue=OTHER, parent=root)
    raw.srem(f"{root}:dependencies", done)
    raw.hset(f"{root}:processed", done, "1")
    running = seed.job("running", "active", queue=OTHER, parent=done)
    raw.set(f"{running}:lock", "token")
    assert remove(run, "root", children=True) is True
    assert {key.rpartition(":")[2] for key in contents(raw)} == {"events", "meta"}


def test_children_that_name_each_other(run: Runner, seed: Seed, raw: redis.Redis) -> None:
    a = seed.job("a", "waiting-children", parent=f"{Q}:b")
    seed.job("b", "waiting-children", parent=a)
    assert remove(run, "a", children=True) is True
    assert not raw.keys(f"{Q}:[ab]*")


def wide_family(seed: Seed, raw: redis.Redis, open: int, done: int) -> None:
    grandparent = seed.job("top", "waiting-children", queue="bull:top")
    root = seed.job("root", "waiting-children", parent=grandparent)
    for n in range(open):
        seed.job(f"o{n}", queue=OTHER, parent=root)
    for n in range(done):
        key = seed.job(f"d{n}", "completed", queue=OTHER, parent=root)
        raw.srem(f"{root}:dependencies", key)
        raw.hset(f"{root}:processed", key, "1")
    middle = seed.job("middle", "waiting-children", queue=OTHER, parent=root)
    for n in range(150):
        seed.job(f"g{n}", queue="bull:third", parent=middle)


def test_a_large_tree_goes_in_bounded_steps(run: Runner, seed: Seed, raw: redis.Redis) -> None:
    wide_family(seed, raw, open=700, done=400)
    assert remove(run, "root", children=True) is True
    left = {key for key in contents(raw) if not key.endswith((":events", ":meta", ":marker"))}
    assert left == {"bull:top:top", "bull:top:wait"}
    removed = [event for event in run.events if isinstance(event, JobRemoved)]
    assert len(removed) == len({event.job.id for event in removed}) == 1252
    # At no time could a worker have taken the root.
    assert events(raw, Q) == [{"event": "removed", "jobId": "root", "prev": "waiting-children"}]
    assert not any(event["event"] == "waiting" for event in events(raw, OTHER))


def test_a_large_tree_with_a_lock_stays(run: Runner, seed: Seed, raw: redis.Redis) -> None:
    wide_family(seed, raw, open=150, done=5)
    raw.set("bull:third:g149:lock", "token")
    before = contents(raw)
    with pytest.raises(JobLocked):
        remove(run, "root", children=True)
    assert changes(before, contents(raw)) == {}
    raw.delete("bull:third:g149:lock")
    raw.set(f"{OTHER}:d3:lock", "of a finished child")
    assert remove(run, "root", children=True) is True


def test_chunks_see_the_job_before_it_goes(seed: Seed, raw: redis.Redis) -> None:
    source = """
        local name = redis.call('HGET', ctx.key, 'name')
        local line = ctx.id .. ' ' .. ctx.state .. ' ' .. ctx.cause .. ' ' .. name
        redis.call('RPUSH', ctx.own('gone'), line)
    """
    run = Runner(raw, (Chunk("memo", "removed", source), Chunk("bad", "removed", "error('oh')")))
    family(seed, raw)
    remove(run, "root", children=True)
    assert raw.lrange(f"{Q}:toril:memo:gone", 0, -1) == ["root wait operator send"]
    assert raw.lrange("bull:third:toril:memo:gone", 0, -1) == ["grandchild wait parent send"]
    assert {error.plugin for error in run.chunk_errors} == {"bad"}
    assert len(run.chunk_errors) == 6


def test_on_a_full_server(own_server: redis.Redis) -> None:
    seed, run = Seed(own_server), Runner(own_server)
    family(seed, own_server)
    parent = seed.job("p", "waiting-children", queue=OTHER)
    seed.job("child", parent=parent)
    fill(own_server)
    assert remove(run, "root", children=True) is True
    assert remove(run, "child") is True
    assert own_server.lrange(f"{OTHER}:wait", 0, -1) == ["p"]
    assert json.loads(own_server.hget(parent, "data") or "") == {}
