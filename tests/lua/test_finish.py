"""`tick`: ending attempts, alone and in batches."""

from __future__ import annotations

from typing import Any

import pytest
import redis
from tests.lua.database import changes, contents
from tests.lua.making import active, codes, end, event_names, finish, node, stored_fields, take
from tests.lua.running import Runner
from tests.lua.seeding import NOW, Q, Seed

from toril.job_events import JobAttemptFailed, JobCompleted
from toril.protocol import finishing
from toril.protocol.adding import add_jobs
from toril.snapshots import JobSnapshot

LATER = NOW + 5


class TestOneJob:
    def test_completed(self, run: Runner, raw: redis.Redis, seed: Seed) -> None:
        key = active(raw, seed, atm=1)
        raw.sadd(f"{Q}:stalled", "j")
        before = contents(raw)
        assert codes(run, finish("j", value='{"ok":1}')) == (0,)
        changed = changes(before, contents(raw))
        assert changed.pop(key) == {
            **before[key],
            "atm": "2",
            "finishedOn": str(LATER),
            "returnvalue": '{"ok":1}',
        }
        assert changed == {
            f"{key}:lock": None,
            f"{Q}:active": None,
            f"{Q}:stalled": None,
            f"{Q}:completed": {"j": LATER},
            f"{Q}:meta": {"opts.maxLenEvents": "10000"},
            f"{Q}:events": [
                {"event": "completed", "jobId": "j", "returnvalue": '{"ok":1}', "prev": "active"},
                {"event": "drained"},
            ],
        }

    def test_failed_for_good(self, run: Runner, raw: redis.Redis, seed: Seed) -> None:
        key = active(raw, seed, defa="child x failed", opts='{"attempts":0}')
        raw.zadd(f"{Q}:toril:deferred", {f"{Q}:j": NOW})
        assert codes(run, finish("j", kind="failed", value="böse", stacktrace='["s"]')) == (0,)
        stored = raw.hgetall(key)
        assert (stored["failedReason"], stored["stacktrace"]) == ("böse", '["s"]')
        assert (stored["finishedOn"], stored["atm"]) == (str(LATER), "1")
        assert "defa" not in stored
        assert not raw.exists(f"{Q}:toril:deferred")
        assert raw.zscore(f"{Q}:failed", "j") == LATER
        assert contents(raw)[f"{Q}:events"] == [
            {"event": "failed", "jobId": "j", "failedReason": "böse", "prev": "active"},
            {"event": "retries-exhausted", "jobId": "j", "attemptsMade": "1"},
            {"event": "drained"},
        ]

    def test_completed_although_somebody_had_decided_that_it_must_fail(
        self, run: Runner, raw: redis.Redis, seed: Seed
    ) -> None:
        """Its failed child was retried while it ran."""
        key = active(raw, seed, defa="child x failed")
        raw.zadd(f"{Q}:toril:deferred", {f"{Q}:j": NOW})
        assert codes(run, finish("j")) == (0,)
        assert raw.hget(key, "defa") == "child x failed"
        assert not raw.exists(f"{Q}:toril:deferred")

    def test_attempts_left_are_not_exhausted(
        self, run: Runner, raw: redis.Redis, seed: Seed
    ) -> None:
        active(raw, seed, opts='{"attempts":3}')
        job = take_over(run, raw)
        end(run, finish(job, kind="failed", value="unrecoverable"))
        assert "retries-exhausted" not in event_names(contents(raw)[f"{Q}:events"])

    @pytest.mark.parametrize(
        ("priority", "lifo", "where"),
        [(0, False, "head"), (0, True, "tail"), (5, False, "prioritized")],
    )
    def test_retried_at_once(
        self, run: Runner, raw: redis.Redis, seed: Seed, priority: int, lifo: bool, where: str
    ) -> None:
        key = active(raw, seed, priority=priority)
        seed.job("other")
        done = finish("j", kind="retry", value="boom", stacktrace='["s"]', lifo=lifo)
        assert codes(run, done) == (0,)
        stored = raw.hgetall(key)
        assert (stored["atm"], stored["failedReason"], stored["stacktrace"]) == (
            "1",
            "boom",
            '["s"]',
        )
        assert "finishedOn" not in stored
        order = {"head": ["j", "other"], "tail": ["other", "j"], "prioritized": ["other"]}
        assert raw.lrange(f"{Q}:wait", 0, -1) == order[where]
        if where == "prioritized":
            assert raw.zscore(f"{Q}:prioritized", "j") == 5 * 2**32 + 1
        assert raw.zscore(f"{Q}:marker", "0") == 0
        (event,) = contents(raw)[f"{Q}:events"]
        assert event == {"event": "waiting", "jobId": "j", "prev": "active"}
        assert not raw.exists(f"{key}:lock", f"{Q}:active")

    @pytest.mark.parametrize(("skip", "made"), [(False, "1"), (True, None)])
    def test_delayed(
        self, run: Runner, raw: redis.Redis, seed: Seed, skip: bool, made: str | None
    ) -> None:
        key = active(raw, seed)
        done = finish("j", kind="delay", delay_ms=1000, skip_attempt=skip)
        assert codes(run, done) == (0,)
        due = LATER + 1000
        assert raw.zscore(f"{Q}:delayed", "j") == due * 4096
        assert raw.hmget(key, "delay", "atm", "failedReason") == ["1000", made, None]
        assert raw.zscore(f"{Q}:marker", "1") == due
        (event,) = contents(raw)[f"{Q}:events"]
        assert event == {"event": "delayed", "jobId": "j", "delay": str(due)}

    @pytest.mark.parametrize("priority", [0, 5])
    def test_given_back(self, run: Runner, raw: redis.Redis, seed: Seed, priority: int) -> None:
        key = active(raw, seed, priority=priority)
        seed.job("other")
        before = raw.hgetall(key)
        assert codes(run, finish("j", kind="wait")) == (0,)
        assert raw.hgetall(key) == before
        if priority:
            assert raw.zscore(f"{Q}:prioritized", "j") == 5 * 2**32
        else:
            assert raw.lrange(f"{Q}:wait", 0, -1) == ["other", "j"]
        assert raw.zscore(f"{Q}:marker", "0") == 0

    def test_the_newest_is_found_from_the_head_too(
        self, run: Runner, raw: redis.Redis, seed: Seed
    ) -> None:
        for name in ("a", "b", "c"):
            active(raw, seed, name)
        assert codes(run, finish("c", from_head=True), finish("a")) == (0, 0)
        assert raw.lrange(f"{Q}:active", 0, -1) == ["b"]


def take_over(run: Runner, raw: redis.Redis) -> Any:
    """The running job `j` as a worker would have got it."""
    return JobSnapshot("mail", "j", stored_fields(raw, f"{Q}:j"))


class TestRefusals:
    """Each for itself: the jobs before and behind in the batch are ended."""

    def around(self, run: Runner, raw: redis.Redis, seed: Seed, bad: Any) -> int:
        for name in ("before", "behind"):
            active(raw, seed, name)
        first, code, last = codes(run, finish("before"), bad, finish("behind"))
        assert (first, last) == (0, 0)
        assert raw.zcard(f"{Q}:completed") == 2
        return code

    def test_no_lock(self, run: Runner, raw: redis.Redis, seed: Seed) -> None:
        key = seed.job("j", "active")
        before = raw.hgetall(key)
        assert self.around(run, raw, seed, finish("j")) == finishing.NO_LOCK
        assert raw.hgetall(key) == before
        assert raw.lrange(f"{Q}:active", 0, -1) == ["j"]

    def test_another_s_lock(self, run: Runner, raw: redis.Redis, seed: Seed) -> None:
        key = active(raw, seed)
        assert self.around(run, raw, seed, finish("j", "t:2")) == finishing.OTHER_LOCK
        assert raw.get(f"{key}:lock") == "t:1"

    def test_not_active(self, run: Runner, raw: redis.Redis, seed: Seed) -> None:
        key = seed.job("j", "wait")
        raw.set(f"{key}:lock", "t:1")
        assert self.around(run, raw, seed, finish("j")) == finishing.NOT_ACTIVE
        assert raw.lrange(f"{Q}:wait", 0, -1) == ["j"]

    def test_a_job_that_is_gone_leaves_active(
        self, run: Runner, raw: redis.Redis, seed: Seed
    ) -> None:
        key = active(raw, seed)
        raw.delete(key)
        assert self.around(run, raw, seed, finish("j")) == finishing.NOT_FOUND
        assert not raw.exists(f"{Q}:active", f"{key}:lock", key)

    def test_open_children(self, run: Runner, raw: redis.Redis, seed: Seed) -> None:
        key = active(raw, seed)
        seed.job("c", parent=key)
        assert self.around(run, raw, seed, finish("j")) == finishing.OPEN_CHILDREN
        assert raw.lrange(f"{Q}:active", 0, -1) == ["j"]
        assert raw.get(f"{key}:lock") == "t:1"

    def test_failed_children(self, run: Runner, raw: redis.Redis, seed: Seed) -> None:
        key = active(raw, seed)
        raw.zadd(f"{key}:unsuccessful", {f"{Q}:c": 1})
        assert self.around(run, raw, seed, finish("j")) == finishing.FAILED_CHILDREN
        assert raw.lrange(f"{Q}:active", 0, -1) == ["j"]

    def test_open_children_do_not_keep_it_from_failing(
        self, run: Runner, raw: redis.Redis, seed: Seed
    ) -> None:
        key = active(raw, seed)
        seed.job("c", parent=key)
        assert self.around(run, raw, seed, finish("j", kind="failed", value="x")) == 0


class TestEvents:
    WANTS = frozenset({"toril_jobs_completed", "toril_jobs_failed"})

    def test_what_was_carried_out_is_told_in_order(
        self, run: Runner, raw: redis.Redis, seed: Seed
    ) -> None:
        for name in ("a", "b", "c", "d", "e"):
            active(raw, seed, name)
        raw.delete(f"{Q}:b:lock")
        end(
            run,
            finish("a", value='{"r":1}'),
            finish("b"),
            finish("c", kind="delay", value="boom", delay_ms=7),
            finish("d", kind="failed", value="end", cause="deferred"),
            finish("e", kind="wait"),
            wants=self.WANTS,
        )
        done, retried, failed = run.events
        assert isinstance(done, JobCompleted)
        assert (done.job.id, done.job.result, done.job.finished) == ("a", {"r": 1}, LATER)
        assert (done.job.outcome, done.job.attempts_made) == ("completed", 1)
        assert isinstance(retried, JobAttemptFailed)
        assert (retried.job.id, retried.final, retried.retry_in) == ("c", False, 7)
        assert isinstance(failed, JobAttemptFailed)
        assert (failed.final, failed.cause, failed.reason) == (True, "deferred", "end")
        assert failed.job.finished == LATER

    def test_nobody_asked_nothing_is_built(self, run: Runner, raw: redis.Redis, seed: Seed) -> None:
        active(raw, seed)
        end(run, finish("j"))
        assert run.events == []


class TestDrained:
    def names(self, raw: redis.Redis) -> list[str]:
        return event_names(contents(raw).get(f"{Q}:events", []))

    @pytest.mark.parametrize("state", ["wait", "prioritized", "active"])
    def test_not_while_something_is_left(
        self, run: Runner, raw: redis.Redis, seed: Seed, state: str
    ) -> None:
        active(raw, seed)
        seed.job("other", state)
        end(run, finish("j"))
        assert "drained" not in self.names(raw)

    def test_once_for_a_batch(self, run: Runner, raw: redis.Redis, seed: Seed) -> None:
        for name in ("a", "b"):
            active(raw, seed, name)
        end(run, finish("a"), finish("b"))
        assert self.names(raw).count("drained") == 1

    def test_not_if_the_fetch_learned_of_a_delayed_job(
        self, run: Runner, raw: redis.Redis, seed: Seed
    ) -> None:
        from tests.lua.making import fetch

        active(raw, seed)
        seed.job("later", "delayed", score=(NOW + 9999) * 4096)
        assert end(run, finish("j"), fetch=fetch(3)).next_due_ms == NOW + 9999
        assert "drained" not in self.names(raw)

    def test_yes_without_a_fetch_in_spite_of_a_delayed_job(
        self, run: Runner, raw: redis.Redis, seed: Seed
    ) -> None:
        active(raw, seed)
        seed.job("later", "delayed", score=(NOW + 9999) * 4096)
        end(run, finish("j"))
        assert "drained" in self.names(raw)

    def test_not_after_a_retry(self, run: Runner, raw: redis.Redis, seed: Seed) -> None:
        active(raw, seed)
        end(run, finish("j", kind="delay", delay_ms=50, value="x"))
        assert "drained" not in self.names(raw)


def test_100_jobs_in_one_call_and_no_more(run: Runner, raw: redis.Redis) -> None:
    run(add_jobs([node(f"j{i}") for i in range(100)], now=NOW))
    jobs = take(run, 100).jobs
    assert end(run, *map(finish, jobs)).codes == (0,) * 100
    assert raw.zcard(f"{Q}:completed") == 100
    with pytest.raises(ValueError, match="100"):
        end(run, *(finish(f"j{i}") for i in range(101)))


def test_a_job_twice_in_one_call_is_refused(run: Runner) -> None:
    with pytest.raises(ValueError, match="twice"):
        end(run, finish("j"), finish("j"))


def test_the_stream_is_trimmed(run: Runner, raw: redis.Redis, seed: Seed) -> None:
    raw.hset(f"{Q}:meta", "opts.maxLenEvents", "10")
    for _ in range(500):
        raw.xadd(f"{Q}:events", {"event": "x"})
    active(raw, seed)
    end(run, finish("j"))
    assert raw.xlen(f"{Q}:events") < 300  # approximately: whole nodes of the stream
