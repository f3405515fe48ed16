"""`tick`: ending attempts, alone and in batches."""

from __future__ import annotations

import json
from typing import Any

import pytest
import redis
from tests.lua.database import changes, contents
from tests.lua.making import end, event_names, finish, node, stored_fields, take
from tests.lua.running import Runner
from tests.lua.seeding import NOW, OTHER, Q, Seed

from toril.protocol import finishing
from toril.protocol.adding import add_jobs
from toril.snapshots import JobAttemptFailed, JobCompleted, JobSnapshot

LATER = NOW + 5


def active(raw: redis.Redis, seed: Seed, id: str = "j", **more: Any) -> str:
    """A running job; its key."""
    more.setdefault("ats", 1)
    key = seed.job(id, "active", **more)
    raw.set(f"{key}:lock", "t:1", px=30_000)
    return key


def codes(run: Runner, *finishes: Any) -> tuple[int, ...]:
    return end(run, *finishes).codes


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
        raw.zadd(f"{Q}:toril:deferred", {"j": NOW})
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
    def test_retried_at_once(  # noqa: PLR0917
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


class TestParent:
    """What a child's end does to its parent, which is in another queue."""

    @pytest.fixture
    def parent(self, seed: Seed) -> str:
        return seed.job("p", "waiting-children", queue=OTHER)

    def end_child(self, run: Runner, raw: redis.Redis, seed: Seed, parent: str, **how: Any) -> int:
        policy, more = how.pop("policy", None), how
        active(raw, seed, "c", parent=parent, policy=policy)
        return codes(run, finish("c", **more))[0]

    def test_the_last_completed_child_releases_it(
        self, run: Runner, raw: redis.Redis, seed: Seed, parent: str
    ) -> None:
        assert self.end_child(run, raw, seed, parent, value="7") == 0
        assert raw.hgetall(f"{parent}:processed") == {f"{Q}:c": "7"}
        assert raw.lrange(f"{OTHER}:wait", 0, -1) == ["p"]
        assert raw.zscore(f"{OTHER}:marker", "0") == 0
        assert not raw.exists(f"{OTHER}:waiting-children", f"{parent}:dependencies")
        assert contents(raw)[f"{OTHER}:events"] == [
            {"event": "waiting", "jobId": "p", "prev": "waiting-children"}
        ]

    def test_another_open_child_keeps_it(
        self, run: Runner, raw: redis.Redis, seed: Seed, parent: str
    ) -> None:
        seed.job("open", parent=parent)
        self.end_child(run, raw, seed, parent)
        assert raw.zscore(f"{OTHER}:waiting-children", "p") == NOW
        assert not raw.exists(f"{OTHER}:wait")

    def test_with_a_priority(self, run: Runner, raw: redis.Redis, seed: Seed) -> None:
        parent = seed.job("p", "waiting-children", queue=OTHER, priority=4)
        self.end_child(run, raw, seed, parent)
        assert raw.zscore(f"{OTHER}:prioritized", "p") == 4 * 2**32 + 1

    def test_with_a_delay(self, run: Runner, raw: redis.Redis, seed: Seed) -> None:
        parent = seed.job("p", "waiting-children", queue=OTHER, delay=1000)
        self.end_child(run, raw, seed, parent)
        assert raw.zscore(f"{OTHER}:delayed", "p") == (LATER + 1000) * 4096
        assert raw.hget(parent, "delay") == "1000"
        assert event_names(contents(raw)[f"{OTHER}:events"]) == ["delayed"]

    def test_into_a_paused_queue_without_a_marker(
        self, run: Runner, raw: redis.Redis, seed: Seed, parent: str
    ) -> None:
        raw.hset(f"{OTHER}:meta", "paused", "1")
        self.end_child(run, raw, seed, parent)
        assert raw.lrange(f"{OTHER}:wait", 0, -1) == ["p"]
        assert not raw.exists(f"{OTHER}:marker")

    def test_a_failed_child_without_a_policy_keeps_it(
        self, run: Runner, raw: redis.Redis, seed: Seed, parent: str
    ) -> None:
        self.end_child(run, raw, seed, parent, kind="failed", value="x")
        assert raw.smembers(f"{parent}:dependencies") == {f"{Q}:c"}
        assert raw.zscore(f"{OTHER}:waiting-children", "p") == NOW

    @pytest.mark.parametrize("state", ["waiting-children", "delayed", "wait", "active", "failed"])
    def test_fail_parent(self, run: Runner, raw: redis.Redis, seed: Seed, state: str) -> None:
        parent = seed.job("p", state, queue=OTHER, delay=0 if state != "delayed" else 9)
        self.end_child(run, raw, seed, parent, policy="fpof", kind="failed", value="x")
        assert raw.zrange(f"{parent}:unsuccessful", 0, -1, withscores=True) == [(f"{Q}:c", LATER)]
        assert not raw.exists(f"{parent}:dependencies")
        decided = state != "failed"
        assert raw.hget(parent, "defa") == (f"child {Q}:c failed" if decided else None)
        assert raw.zscore(f"{OTHER}:toril:deferred", "p") == (LATER if decided else None)
        released = state in {"waiting-children", "delayed", "wait"}
        assert raw.lrange(f"{OTHER}:wait", 0, -1) == (["p"] if released else [])
        if state == "delayed":
            assert raw.hget(parent, "delay") == "0"

    def test_continue_releases_at_once(
        self, run: Runner, raw: redis.Redis, seed: Seed, parent: str
    ) -> None:
        seed.job("open", parent=parent)
        self.end_child(run, raw, seed, parent, policy="cpof", kind="failed", value="x")
        assert raw.lrange(f"{OTHER}:wait", 0, -1) == ["p"]
        assert raw.hgetall(f"{parent}:failed") == {f"{Q}:c": "x"}
        assert raw.smembers(f"{parent}:dependencies") == {f"{Q}:open"}

    @pytest.mark.parametrize(("policy", "trace"), [("idof", {f"{Q}:c": "x"}), ("rdof", {})])
    @pytest.mark.parametrize("alone", [True, False])
    def test_ignore_and_remove_release_when_nothing_is_open(  # noqa: PLR0917
        self,
        run: Runner,
        raw: redis.Redis,
        seed: Seed,
        parent: str,
        policy: str,
        trace: dict[str, str],
        alone: bool,
    ) -> None:
        if not alone:
            seed.job("open", parent=parent)
        self.end_child(run, raw, seed, parent, policy=policy, kind="failed", value="x")
        assert raw.lrange(f"{OTHER}:wait", 0, -1) == (["p"] if alone else [])
        assert raw.hgetall(f"{parent}:failed") == trace

    def test_a_retry_does_nothing_to_it(
        self, run: Runner, raw: redis.Redis, seed: Seed, parent: str
    ) -> None:
        self.end_child(run, raw, seed, parent, policy="fpof", kind="retry", value="x")
        assert raw.smembers(f"{parent}:dependencies") == {f"{Q}:c"}
        assert raw.hget(parent, "defa") is None

    def test_a_parent_that_is_gone_gets_nothing(
        self, run: Runner, raw: redis.Redis, seed: Seed
    ) -> None:
        active(raw, seed, "c", parent=f"{OTHER}:gone", policy="fpof")
        raw.delete(f"{OTHER}:gone:dependencies")
        assert codes(run, finish("c", kind="failed", value="x")) == (0,)
        assert not raw.keys(f"{OTHER}:*")

    def test_child_before_its_active_parent_in_one_batch(
        self, run: Runner, raw: redis.Redis, seed: Seed
    ) -> None:
        parent = active(raw, seed, "p")
        active(raw, seed, "c", parent=parent)
        assert codes(run, finish("c"), finish("p")) == (0, 0)

    def test_parent_before_its_child_in_one_batch(
        self, run: Runner, raw: redis.Redis, seed: Seed
    ) -> None:
        parent = active(raw, seed, "p")
        active(raw, seed, "c", parent=parent)
        assert codes(run, finish("p"), finish("c")) == (finishing.OPEN_CHILDREN, 0)

    def test_a_failing_child_before_its_active_parent(
        self, run: Runner, raw: redis.Redis, seed: Seed
    ) -> None:
        parent = active(raw, seed, "p")
        active(raw, seed, "c", parent=parent, policy="fpof")
        done = codes(run, finish("c", kind="failed", value="x"), finish("p"))
        assert done == (0, finishing.FAILED_CHILDREN)

    def test_a_parent_whose_id_has_colons(self, run: Runner, raw: redis.Redis, seed: Seed) -> None:
        seed.job("repeat:s:1", "waiting-children", queue=OTHER)
        parent = f"{OTHER}:repeat:s:1"
        link = json.dumps({"id": "repeat:s:1", "queueKey": OTHER})
        active(raw, seed, "c", parentKey=parent)
        raw.hset(f"{Q}:c", "parent", link)
        raw.sadd(f"{parent}:dependencies", f"{Q}:c")
        codes(run, finish("c"))
        assert raw.lrange(f"{OTHER}:wait", 0, -1) == ["repeat:s:1"]


class TestDeduplication:
    """A job that Node added with a deduplication id ends here."""

    def test_a_window_without_end_closes(self, run: Runner, raw: redis.Redis, seed: Seed) -> None:
        active(raw, seed, deid="d")
        raw.set(f"{Q}:de:d", "j")
        codes(run, finish("j"))
        assert not raw.exists(f"{Q}:de:d")

    def test_a_window_with_an_end_stays(self, run: Runner, raw: redis.Redis, seed: Seed) -> None:
        active(raw, seed, deid="d")
        raw.set(f"{Q}:de:d", "j", px=10_000)
        codes(run, finish("j"))
        assert raw.get(f"{Q}:de:d") == "j"

    def test_another_s_window_stays(self, run: Runner, raw: redis.Redis, seed: Seed) -> None:
        active(raw, seed, deid="d")
        raw.set(f"{Q}:de:d", "k")
        codes(run, finish("j"))
        assert raw.get(f"{Q}:de:d") == "k"

    def test_a_retry_keeps_it(self, run: Runner, raw: redis.Redis, seed: Seed) -> None:
        active(raw, seed, deid="d")
        raw.set(f"{Q}:de:d", "j")
        codes(run, finish("j", kind="retry", value="x"))
        assert raw.get(f"{Q}:de:d") == "j"

    def test_the_job_kept_for_later_is_added(
        self, run: Runner, raw: redis.Redis, seed: Seed
    ) -> None:
        active(raw, seed, deid="d")
        raw.set(f"{Q}:de:d", "j")
        opts = '{"attempts":0,"de":{"id":"d","keepLastIfActive":true}}'
        kept: dict[Any, Any] = {"jid": "next", "name": "send", "data": '{"n":2}', "opts": opts}
        raw.hset(f"{Q}:dn:d", mapping=kept)
        codes(run, finish("j"))
        assert raw.hgetall(f"{Q}:next") == {
            "name": "send",
            "data": '{"n":2}',
            "opts": opts,
            "timestamp": str(LATER),
            "delay": "0",
            "priority": "0",
            "deid": "d",
        }
        assert raw.get(f"{Q}:de:d") == "next"
        assert raw.ttl(f"{Q}:de:d") == -1
        assert raw.lrange(f"{Q}:wait", 0, -1) == ["next"]
        assert raw.get(f"{Q}:id") == "1"
        assert not raw.exists(f"{Q}:dn:d")
        assert event_names(contents(raw)[f"{Q}:events"]) == ["added", "waiting", "completed"]

    def test_it_may_be_a_child_of_a_parent_in_the_same_batch(
        self, run: Runner, raw: redis.Redis, seed: Seed
    ) -> None:
        active(raw, seed, deid="d")
        parent = active(raw, seed, "p")
        kept: dict[Any, Any] = {"jid": "next", "name": "n", "data": "1", "opts": "{}", "pk": parent}
        raw.hset(f"{Q}:dn:d", mapping={**kept, "pdk": f"{parent}:dependencies"})
        assert codes(run, finish("j"), finish("p")) == (0, finishing.OPEN_CHILDREN)


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
