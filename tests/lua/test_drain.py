from __future__ import annotations

from typing import Any

import redis
from tests.lua.conftest import fill
from tests.lua.database import changes, contents
from tests.lua.running import Runner
from tests.lua.seeding import NOW, OTHER, Q, Seed

from toril.connection.call import Procedure
from toril.job_events import JobRemoved
from toril.protocol.effects import REMOVED
from toril.protocol.removing import drain


def drained(run: Runner, *, delayed: bool = False) -> int:
    ids: list[str] = run(drain(Q, delayed=delayed, now=NOW, wants=frozenset({REMOVED})))
    return len(ids)


def removed(run: Runner) -> list[str]:
    return [event.job.id for event in run.events if isinstance(event, JobRemoved)]


def test_what_waits_goes(run: Runner, seed: Seed, raw: redis.Redis) -> None:
    for place in ("active", "completed", "failed", "waiting-children", "delayed"):
        seed.job(f"in-{place}", place)
    before = contents(raw)
    for place in ("wait", "paused", "prioritized"):
        seed.job(f"in-{place}", place, deid=place)
        raw.set(f"{Q}:de:{place}", f"in-{place}")
        raw.rpush(f"{Q}:in-{place}:logs", "line")
    assert drained(run) == 3
    assert changes(before, contents(raw)) == {}
    assert {event.cause for event in run.events if isinstance(event, JobRemoved)} == {"drain"}
    assert removed(run) == ["in-wait", "in-paused", "in-prioritized"]
    assert drained(run, delayed=True) == 1
    assert not raw.exists(f"{Q}:in-delayed", f"{Q}:delayed")


def test_what_a_schedule_waits_for_stays(run: Runner, seed: Seed, raw: redis.Redis) -> None:
    raw.zadd(f"{Q}:repeat", {"daily": NOW})
    pending = f"repeat:daily:{NOW}"
    seed.job("before")
    seed.job(pending, rjk="daily")
    seed.job("after")
    assert drained(run) == 2
    # Exactly the ids of the removed jobs left the list.
    assert raw.lrange(f"{Q}:wait", 0, -1) == [pending]
    assert raw.exists(f"{Q}:{pending}")


def test_in_slices(run: Runner, seed: Seed, raw: redis.Redis) -> None:
    for n in range(170):
        seed.job(f"w{n:03}")
        seed.job(f"p{n:03}", "prioritized", score=n)
    assert drained(run) == 340
    assert contents(raw) == {}
    assert removed(run)[:2] == ["w000", "w001"]
    assert len(run.requests) <= 15


def test_it_ends_although_jobs_are_added(run: Runner, seed: Seed, raw: redis.Redis) -> None:
    for n in range(150):
        seed.job(f"w{n}")
    added = 0

    def adding_meanwhile() -> Procedure[int]:
        nonlocal added
        procedure = drain(Q, delayed=False, now=NOW)
        answer: Any = None
        while True:
            try:
                request = procedure.send(answer)
            except StopIteration as stop:
                return len(stop.value)
            answer = yield request
            seed.job(f"new{added}")
            added += 1

    assert run(adding_meanwhile()) == 150
    assert raw.llen(f"{Q}:wait") == added > 1


def test_a_parent_of_the_queue_goes_with_its_last_open_child(
    run: Runner, seed: Seed, raw: redis.Redis
) -> None:
    top = seed.job("top", "waiting-children", queue=OTHER)
    parent = seed.job("p", "waiting-children", parent=top)
    middle = seed.job("m", "waiting-children", parent=parent)
    seed.job("c", parent=middle)
    seed.job("d", parent=middle)
    assert drained(run) == 4
    assert contents(raw, f"{Q}:*") == {}
    assert sorted(removed(run)) == ["c", "d", "m", "p"]
    # The one in another queue is not in what was asked for: it runs.
    assert contents(raw)[f"{OTHER}:wait"] == ["top"]
    assert raw.exists(top)


def test_a_parent_with_other_open_children_stays(run: Runner, seed: Seed, raw: redis.Redis) -> None:
    parent = seed.job("p", "waiting-children")
    running = seed.job("running", "active", parent=parent)
    seed.job("c", parent=parent)
    assert drained(run) == 1
    assert raw.smembers(f"{parent}:dependencies") == {running}
    assert raw.zscore(f"{Q}:waiting-children", "p") is not None


def test_ids_without_a_job(run: Runner, seed: Seed, raw: redis.Redis) -> None:
    seed.put("ghost", "wait")
    raw.set(f"{Q}:garbled", "a string")
    seed.put("garbled", "prioritized")
    assert drained(run) == 1
    assert contents(raw) == {}


def test_on_a_full_server(own_server: redis.Redis) -> None:
    seed, run = Seed(own_server), Runner(own_server)
    top = seed.job("top", "waiting-children", queue=OTHER)
    seed.job("c", parent=top)
    seed.job("d", "delayed")
    fill(own_server)
    assert drained(run, delayed=True) == 2
    assert own_server.lrange(f"{OTHER}:wait", 0, -1) == ["top"]
