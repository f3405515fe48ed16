from __future__ import annotations

import json
from typing import Any

import pytest
import redis
from tests.lua.conftest import fill
from tests.lua.database import changes, contents, events
from tests.lua.running import Runner
from tests.lua.seeding import NOW, OTHER, Q, Seed

from toril.errors import JobNotFound, JobStateError, LockLost
from toril.job_events import JobRetried
from toril.protocol.changing import (
    add_log,
    clear_logs,
    pause,
    promote_all,
    promote_job,
    resume,
    retry_all,
    retry_job,
    update_data,
    update_progress,
)
from toril.protocol.effects import RETRIED
from toril.snapshots import JobRef
from toril.types import Outcome

STEP = 2**32
CAP = {"opts.maxLenEvents": "10000"}
ENDED: dict[str, Any] = {
    "finishedOn": NOW,
    "processedOn": NOW - 5,
    "atm": 2,
    "ats": 3,
    "stacktrace": "[]",
}


class TestRetry:
    def test_a_failed_job_runs_again(self, run: Runner, seed: Seed, raw: redis.Redis) -> None:
        key = seed.job("j", "failed", failedReason="boom", **ENDED)
        before = contents(raw)
        run(retry_job(Q, "j", "failed"))
        kept = {"failedReason", "finishedOn", "processedOn"}
        assert changes(before, contents(raw)) == {
            f"{Q}:events": [{"event": "waiting", "jobId": "j", "prev": "failed"}],
            f"{Q}:failed": None,
            key: {name: value for name, value in before[key].items() if name not in kept},
            f"{Q}:marker": {"0": 0},
            f"{Q}:meta": CAP,
            f"{Q}:wait": ["j"],
        }
        assert run.events == []

    def test_a_completed_job_loses_its_result(
        self, run: Runner, seed: Seed, raw: redis.Redis
    ) -> None:
        key = seed.job("j", "completed", returnvalue="1", failedReason="earlier", **ENDED)
        run(retry_job(Q, "j", "completed", reset_attempts=True, reset_started=True))
        left = raw.hgetall(key)
        assert left["failedReason"] == "earlier"
        assert not left.keys() & {"returnvalue", "finishedOn", "processedOn", "atm", "ats"}

    def test_who_wants_to_know_is_told(self, run: Runner, seed: Seed) -> None:
        seed.job("j", "failed")
        run(retry_job(Q, "j", "failed", wants=frozenset({RETRIED})))
        assert run.events == [JobRetried(JobRef("mail", "j"), "failed")]

    def test_priority_and_lifo_decide_where_it_goes(
        self, run: Runner, seed: Seed, raw: redis.Redis
    ) -> None:
        seed.job("first")
        seed.job("urgent", "failed", priority=7)
        seed.job("lifo", "failed", opts='{"lifo":true}')
        for name in ("urgent", "lifo"):
            run(retry_job(Q, name, "failed"))
        assert contents(raw)[f"{Q}:prioritized"] == {"urgent": 7 * STEP + 1}
        assert raw.lrange(f"{Q}:wait", 0, -1) == ["first", "lifo"]

    def test_a_blocked_queue_gets_no_marker(
        self, run: Runner, seed: Seed, raw: redis.Redis
    ) -> None:
        raw.hset(f"{Q}:meta", "paused", 1)
        seed.job("j", "failed")
        run(retry_job(Q, "j", "failed"))
        assert not raw.exists(f"{Q}:marker")

    @pytest.mark.parametrize(
        ("state", "place"),
        [("failed", "unsuccessful"), ("failed", "failed"), ("completed", "processed")],
    )
    def test_a_living_parent_has_an_open_child_again(
        self, run: Runner, seed: Seed, raw: redis.Redis, state: Outcome, place: str
    ) -> None:
        parent = seed.job("p", "waiting-children", queue=OTHER, defa="child failed")
        key = seed.job("c", state, parent=parent)
        raw.delete(f"{parent}:dependencies")
        if place == "unsuccessful":
            raw.zadd(f"{parent}:unsuccessful", {key: NOW})
        else:
            raw.hset(f"{parent}:{place}", key, "x")
        run(retry_job(Q, "c", state))
        assert raw.smembers(f"{parent}:dependencies") == {key}
        assert not raw.exists(f"{parent}:{place}")
        assert raw.hget(parent, "defa") == "child failed"
        assert raw.zscore(f"{OTHER}:waiting-children", "p") == NOW

    def test_a_child_that_left_no_trace_is_not_linked_again(
        self, run: Runner, seed: Seed, raw: redis.Redis
    ) -> None:
        parent = seed.job("p", "completed")
        seed.job("c", "failed", parent=parent, policy="rdof")
        raw.delete(f"{parent}:dependencies")
        run(retry_job(Q, "c", "failed"))
        assert not raw.exists(f"{parent}:dependencies")

    def test_a_parent_that_is_gone_is_not_made_again(
        self, run: Runner, seed: Seed, raw: redis.Redis
    ) -> None:
        key = seed.job("c", "completed", parent=f"{OTHER}:gone")
        raw.delete(f"{OTHER}:gone:dependencies")
        raw.hset(f"{OTHER}:gone:processed", key, "1")
        run(retry_job(Q, "c", "completed"))
        assert not raw.exists(f"{OTHER}:gone:dependencies")

    def test_refusals(self, run: Runner, seed: Seed, raw: redis.Redis) -> None:
        seed.job("waits")
        seed.put("ghost", "failed")
        before = contents(raw)
        with pytest.raises(JobNotFound):
            run(retry_job(Q, "nobody", "failed"))
        with pytest.raises(JobStateError, match="'waits' of queue 'mail' is not failed"):
            run(retry_job(Q, "waits", "failed"))
        assert changes(before, contents(raw)) == {}
        with pytest.raises(JobNotFound):
            run(retry_job(Q, "ghost", "failed"))
        assert contents(raw).keys() == {f"{Q}:waits", f"{Q}:wait"}

    def test_data_that_a_rule_has_taken(self, run: Runner, seed: Seed, raw: redis.Redis) -> None:
        for n in range(250):
            seed.job(f"{n:03}", "failed", score=NOW + n, data="{ }")
        for data in ("{}", "[1]", "null"):
            seed.job(data, "failed", score=NOW + 300, data=data)
        before = contents(raw)
        with pytest.raises(JobStateError, match="'007' of queue 'mail' cannot run again: a rule"):
            run(retry_job(Q, "007", "failed"))
        assert changes(before, contents(raw)) == {}
        assert run(retry_all(Q, "failed", before=NOW + 999, limit=2)) == 2
        assert run(retry_all(Q, "failed", before=NOW + 999)) == 1
        assert raw.zcard(f"{Q}:failed") == 250
        assert run(retry_all(Q, "failed", before=NOW + 999)) == 0

    def test_all_in_slices(self, run: Runner, seed: Seed, raw: redis.Redis) -> None:
        for n in range(250):
            seed.job(f"{n:03}", "failed", score=NOW + n, priority=n % 2)
        seed.job("later", "failed", score=NOW + 1000)
        seed.put("ghost", "failed", score=NOW)
        raw.set(f"{Q}:garbled", "a string")
        seed.put("garbled", "failed", score=NOW)
        wants = frozenset({RETRIED})
        assert run(retry_all(Q, "failed", before=NOW + 999, wants=wants)) == 250
        assert len(run.requests) == 3
        assert raw.zrange(f"{Q}:failed", 0, -1) == ["later"]
        assert raw.lrange(f"{Q}:wait", 0, -1) == [f"{n:03}" for n in range(248, -1, -2)]
        assert raw.zrange(f"{Q}:prioritized", 0, -1) == [f"{n:03}" for n in range(1, 250, 2)]
        assert len(run.events) == 250
        assert raw.get(f"{Q}:garbled") == "a string"

    def test_on_a_full_server(self, own_server: redis.Redis) -> None:
        seed, run = Seed(own_server), Runner(own_server)
        seed.job("j", "failed", priority=1)
        fill(own_server)
        run(retry_job(Q, "j", "failed"))
        assert own_server.zcard(f"{Q}:prioritized") == 1


class TestPromote:
    def test_one(self, run: Runner, seed: Seed, raw: redis.Redis) -> None:
        key = seed.job("j", "delayed", score=(NOW + 5000) * 4096, delay=5000)
        before = contents(raw)
        run(promote_job(Q, "j"))
        assert changes(before, contents(raw)) == {
            f"{Q}:delayed": None,
            f"{Q}:events": [{"event": "waiting", "jobId": "j", "prev": "delayed"}],
            key: before[key] | {"delay": "0"},
            f"{Q}:marker": {"0": 0},
            f"{Q}:wait": ["j"],
        }

    def test_with_priority(self, run: Runner, seed: Seed, raw: redis.Redis) -> None:
        seed.job("j", "delayed", priority=2)
        run(promote_job(Q, "j"))
        assert contents(raw)[f"{Q}:prioritized"] == {"j": 2 * STEP + 1}

    def test_refusals(self, run: Runner, seed: Seed) -> None:
        seed.job("waits")
        seed.put("ghost", "delayed")
        with pytest.raises(JobNotFound):
            run(promote_job(Q, "nobody"))
        with pytest.raises(JobStateError, match="is not delayed"):
            run(promote_job(Q, "waits"))
        with pytest.raises(JobNotFound):
            run(promote_job(Q, "ghost"))

    def test_all_in_slices(self, run: Runner, seed: Seed, raw: redis.Redis) -> None:
        for n in range(450):
            seed.job(f"{n:03}", "delayed", score=(NOW + n) * 4096, delay=n + 1)
        seed.put("ghost", "delayed", score=0)
        assert run(promote_all(Q)) == 450
        assert len(run.requests) == 4
        assert raw.lrange(f"{Q}:wait", 0, -1) == [f"{n:03}" for n in range(449, -1, -1)]
        assert raw.hget(f"{Q}:007", "delay") == "0"
        assert run(promote_all(Q)) == 0

    def test_on_a_full_server(self, own_server: redis.Redis) -> None:
        seed, run = Seed(own_server), Runner(own_server)
        for name in ("a", "b"):
            seed.job(name, "delayed")
        fill(own_server)
        run(promote_job(Q, "a"))
        assert run(promote_all(Q)) == 1


class TestPause:
    def test_pause(self, run: Runner, seed: Seed, raw: redis.Redis) -> None:
        seed.job("j")
        raw.zadd(f"{Q}:marker", {"0": 0})
        before = contents(raw)
        run(pause(Q))
        assert changes(before, contents(raw)) == {
            f"{Q}:events": [{"event": "paused"}],
            f"{Q}:marker": None,
            f"{Q}:meta": {"paused": "1"},
        }

    def test_resume(self, run: Runner, seed: Seed, raw: redis.Redis) -> None:
        seed.job("j")
        raw.hset(f"{Q}:meta", "paused", 1)
        run(resume(Q))
        assert not raw.exists(f"{Q}:meta")
        assert contents(raw)[f"{Q}:marker"] == {"0": 0}
        assert events(raw, Q) == [{"event": "resumed"}]

    def test_resume_with_delayed_jobs_only(self, run: Runner, seed: Seed, raw: redis.Redis) -> None:
        seed.job("j", "delayed", score=NOW * 4096)
        run(resume(Q))
        assert contents(raw)[f"{Q}:marker"] == {"1": NOW}

    def test_an_old_list_of_a_paused_queue_joins(self, run: Runner, raw: redis.Redis) -> None:
        raw.rpush(f"{Q}:paused", "new", "old")
        run(resume(Q))
        assert contents(raw)[f"{Q}:wait"] == ["new", "old"]

    def test_a_long_one_in_slices(self, run: Runner, raw: redis.Redis) -> None:
        raw.rpush(f"{Q}:wait", "w")
        raw.rpush(f"{Q}:paused", *map(str, range(2500)))
        run(resume(Q))
        assert contents(raw)[f"{Q}:wait"] == ["w", *map(str, range(2500))]
        assert not raw.exists(f"{Q}:paused")
        assert events(raw, Q) == [{"event": "resumed"}]
        assert len(run.requests) == 3

    def test_on_a_full_server(self, own_server: redis.Redis) -> None:
        run = Runner(own_server)
        own_server.rpush(f"{Q}:paused", "a")
        own_server.rpush(f"{Q}:wait", "b")
        fill(own_server)
        run(pause(Q))
        assert own_server.hget(f"{Q}:meta", "paused") == "1"
        run(resume(Q))
        assert own_server.lrange(f"{Q}:wait", 0, -1) == ["b", "a"]


class TestUpdate:
    def test_data(self, run: Runner, seed: Seed, raw: redis.Redis) -> None:
        key = seed.job("j")
        run(update_data(Q, "j", '{"n": 1.0}'))
        assert raw.hget(key, "data") == '{"n": 1.0}'

    def test_progress(self, run: Runner, seed: Seed, raw: redis.Redis) -> None:
        key = seed.job("j")
        run(update_progress(Q, "j", "[1]"))
        assert raw.hget(key, "progress") == "[1]"
        assert events(raw, Q) == [{"event": "progress", "jobId": "j", "data": "[1]"}]

    def test_logs(self, run: Runner, seed: Seed, raw: redis.Redis) -> None:
        key = seed.job("j")
        assert [run(add_log(Q, "j", f"line {n}")) for n in range(3)] == [1, 2, 3]
        assert run(add_log(Q, "j", "line 3", keep_logs=2)) == 2
        assert raw.lrange(f"{key}:logs", 0, -1) == ["line 2", "line 3"]
        run(clear_logs(Q, "j", keep_logs=1))
        assert raw.lrange(f"{key}:logs", 0, -1) == ["line 3"]
        run(clear_logs(Q, "j"))
        assert not raw.exists(f"{key}:logs")

    def test_fenced_by_the_token(self, run: Runner, seed: Seed, raw: redis.Redis) -> None:
        key = seed.job("j", "active")
        for lock in (None, "other"):
            if lock:
                raw.set(f"{key}:lock", lock)
            before = contents(raw)
            for operation in (
                update_data(Q, "j", "1", token="mine"),
                update_progress(Q, "j", "1", token="mine"),
                add_log(Q, "j", "1", token="mine"),
                clear_logs(Q, "j", token="mine"),
            ):
                with pytest.raises(LockLost) as caught:
                    run(operation)
                assert (caught.value.queue, caught.value.job_id) == ("mail", "j")
            assert changes(before, contents(raw)) == {}
        raw.set(f"{key}:lock", "mine")
        run(update_data(Q, "j", "1", token="mine"))
        assert raw.hget(key, "data") == "1"

    def test_a_job_that_is_not_there(self, run: Runner, raw: redis.Redis) -> None:
        raw.set(f"{Q}:garbled", "a string")
        before = contents(raw)
        for name in ("nobody", "garbled"):
            for operation in (
                update_data(Q, name, "1"),
                update_progress(Q, name, "1"),
                add_log(Q, name, "1"),
            ):
                with pytest.raises(JobNotFound):
                    run(operation)
        assert changes(before, contents(raw)) == {}

    def test_on_a_full_server(self, own_server: redis.Redis) -> None:
        seed, run = Seed(own_server), Runner(own_server)
        key = seed.job("j")
        fill(own_server)
        run(update_progress(Q, "j", json.dumps(50)))
        run(update_data(Q, "j", "{}"))
        assert run(add_log(Q, "j", "half")) == 1
        run(clear_logs(Q, "j"))
        assert own_server.hget(key, "progress") == "50"
