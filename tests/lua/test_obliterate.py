from __future__ import annotations

from typing import Any

import pytest
import redis
from tests.lua.conftest import fill
from tests.lua.database import changes, contents
from tests.lua.running import Runner
from tests.lua.seeding import NOW, OTHER, Q, Seed

from toril.errors import JobLocked, JobStateError
from toril.job_events import JobRemoved
from toril.protocol.effects import REMOVED
from toril.protocol.removing import obliterate

PLACES = ("wait", "paused", "delayed", "prioritized", "waiting-children", "completed", "failed")


def obliterated(run: Runner, *, force: bool = False) -> None:
    run(obliterate(Q, force=force, now=NOW, wants=frozenset({REMOVED})))


def everything(seed: Seed, raw: redis.Redis) -> None:
    """A queue with a key of every kind."""
    for place in PLACES:
        key = seed.job(f"in-{place}", place)
        raw.rpush(f"{key}:logs", "line")
        raw.sadd(f"{key}:dependencies", f"{OTHER}:child")
        raw.hset(f"{key}:processed", "x", "1")
        raw.hset(f"{key}:failed", "x", "1")
        raw.zadd(f"{key}:unsuccessful", {"x": 1})
    for name in ("id", "pc", "limiter", "delay", "stalled-check", "de:d", "toril:call:x:1"):
        raw.set(f"{Q}:{name}", "1")
    for name in ("meta", "metrics:completed", "metrics:failed", "dn:d", "repeat:daily"):
        raw.hset(f"{Q}:{name}", "x", "1")
    for name in ("metrics:completed:data", "metrics:failed:data", "toril:flows:y", "gone:logs"):
        raw.rpush(f"{Q}:{name}", "1")
    for name in ("marker", "priority", "toril:cleanup:at:failed", "toril:memo:meta"):
        raw.zadd(f"{Q}:{name}", {"x": 1})
    raw.sadd(f"{Q}:stalled", "x")
    raw.zadd(f"{Q}:repeat", {"daily": NOW, "without-hash": NOW})
    seed.job(f"repeat:daily:{NOW}", "delayed", rjk="daily")
    seed.job("orphan", None)


def test_nothing_is_left(run: Runner, seed: Seed, raw: redis.Redis) -> None:
    seed.job("neighbour", queue="bull:mail2")
    # A queue `x` under the prefix `bull:mail`.
    seed.job("j", queue=f"{Q}:x")
    raw.hset(f"{Q}:x:meta", "version", "1")
    before = contents(raw)
    everything(seed, raw)
    obliterated(run)
    assert changes(before, contents(raw)) == {}
    removed = {event.job.id: event for event in run.events if isinstance(event, JobRemoved)}
    assert removed.keys() == {f"in-{place}" for place in PLACES} | {f"repeat:daily:{NOW}"}
    assert {event.cause for event in removed.values()} == {"obliterate"}


def test_in_slices(run: Runner, seed: Seed, raw: redis.Redis) -> None:
    for n in range(230):
        seed.job(f"w{n}")
        raw.zadd(f"{Q}:repeat", {f"s{n}": n})
        raw.hset(f"{Q}:repeat:s{n}", "name", "n")
    for n in range(600):
        raw.set(f"{Q}:toril:memo:{n}", "1")
    obliterated(run)
    assert contents(raw) == {}
    assert len(run.events) == 230


def test_active_jobs_refuse(run: Runner, seed: Seed, raw: redis.Redis) -> None:
    seed.job("running", "active")
    before = contents(raw)
    with pytest.raises(JobLocked, match="'running'"):
        obliterated(run)
    assert changes(before, contents(raw)) == {}


def test_active_jobs_go_by_force(run: Runner, seed: Seed, raw: redis.Redis) -> None:
    seed.job("running", "active")
    raw.set(f"{Q}:running:lock", "token")
    obliterated(run, force=True)
    assert contents(raw) == {}


def test_a_parent_in_another_queue_runs(run: Runner, seed: Seed, raw: redis.Redis) -> None:
    top = seed.job("top", "waiting-children", queue=OTHER)
    parent = seed.job("p", "waiting-children", parent=top)
    seed.job("c", parent=parent)
    obliterated(run)
    assert contents(raw, f"{Q}:*") == {}
    assert contents(raw)[f"{OTHER}:wait"] == ["top"]


def interrupted(run: Runner, script: str, meanwhile: Any) -> None:
    """Obliterate, and do something else before the first call of a script that writes."""
    procedure = obliterate(Q, force=False, now=NOW, wants=frozenset({REMOVED}))
    request = next(procedure)
    done = False
    while True:
        looks = b"look" in b"".join(getattr(request, "args", ()))
        if not done and not looks and getattr(request, "script", "") == script:
            meanwhile()
            done = True
        try:
            request = procedure.send(run(request))
        except StopIteration:
            return


def test_a_job_taken_meanwhile_refuses(run: Runner, seed: Seed, raw: redis.Redis) -> None:
    seed.job("w")
    with pytest.raises(JobLocked, match="'late'"):
        interrupted(run, "obliterate", lambda: seed.job("late", "active"))
    assert raw.exists(f"{Q}:w")


def test_a_queue_resumed_meanwhile_refuses(run: Runner, seed: Seed, raw: redis.Redis) -> None:
    seed.job("w")
    with pytest.raises(JobStateError, match="resumed"):
        interrupted(run, "obliterate", lambda: raw.hdel(f"{Q}:meta", "paused"))
    assert raw.exists(f"{Q}:w")


def test_a_job_added_meanwhile_goes_too(run: Runner, seed: Seed, raw: redis.Redis) -> None:
    seed.job("w")
    interrupted(run, "scan", lambda: seed.job("late"))
    assert contents(raw) == {}
    assert [event.job.id for event in run.events if isinstance(event, JobRemoved)] == ["w", "late"]


def test_a_queue_that_is_not_there(run: Runner, raw: redis.Redis) -> None:
    obliterated(run)
    assert contents(raw) == {}


def test_on_a_full_server(own_server: redis.Redis) -> None:
    seed, run = Seed(own_server), Runner(own_server)
    everything(seed, own_server)
    fill(own_server)
    obliterated(run)
    assert contents(own_server) == {}
