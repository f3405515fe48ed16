"""`renew`, `wait_children` and the stalled check."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import redis
from tests.lua.database import changes, contents
from tests.lua.making import LOCK_MS, event_names, node, take
from tests.lua.running import Runner
from tests.lua.seeding import NOW, Q, Seed

from toril.errors import JobError, JobNotFound, JobStateError, LockLost
from toril.job_events import JobStalled
from toril.protocol.adding import add_jobs
from toril.protocol.locking import StalledReport, renew, stalled_check, wait_children
from toril.snapshots import JobRef


class TestRenew:
    def test_own_locks_and_only_those(self, run: Runner, raw: redis.Redis) -> None:
        run(add_jobs([node(name) for name in ("a", "b", "c")], now=NOW))
        take(run, 3)
        raw.sadd(f"{Q}:stalled", "a", "b", "c")
        raw.set(f"{Q}:b:lock", "another's", px=1000)
        raw.delete(f"{Q}:c:lock")
        raw.pexpire(f"{Q}:a:lock", 1000)
        jobs = [(name, "t:1") for name in ("a", "b", "c")]
        assert run(renew(Q, jobs, LOCK_MS)) == ("b", "c")
        assert raw.pttl(f"{Q}:a:lock") > 1000 >= raw.pttl(f"{Q}:b:lock")
        assert not raw.exists(f"{Q}:c:lock")
        assert raw.smembers(f"{Q}:stalled") == {"b", "c"}

    def test_250_a_call(self, run: Runner) -> None:
        assert len(run(renew(Q, [(f"j{i}", "t") for i in range(250)], LOCK_MS))) == 250
        for count in (0, 251):
            with pytest.raises(ValueError, match="250"):
                renew(Q, [(f"j{i}", "t") for i in range(count)], LOCK_MS)


Harm = Callable[[redis.Redis, str], object]
HARMS: list[tuple[Harm, type[JobError]]] = [
    (lambda raw, key: raw.delete(key), JobNotFound),
    (lambda raw, key: raw.delete(f"{key}:lock"), LockLost),
    (lambda raw, key: raw.set(f"{key}:lock", "t:2"), LockLost),
    (lambda raw, _: raw.delete(f"{Q}:active"), JobStateError),
    (lambda raw, key: raw.zadd(f"{key}:unsuccessful", {"c": 1}), JobStateError),
]


class TestWaitChildren:
    @pytest.fixture
    def key(self, raw: redis.Redis, seed: Seed) -> str:
        key = seed.job("p", "active")
        raw.set(f"{key}:lock", "t:1")
        raw.sadd(f"{Q}:stalled", "p")
        return key

    def put_aside(self, run: Runner, **more: Any) -> bool:
        moved: bool = run(wait_children(Q, "p", more.pop("token", "t:1"), now=NOW + 5, **more))
        return moved

    def test_it_waits(self, run: Runner, raw: redis.Redis, seed: Seed, key: str) -> None:
        seed.job("c", "delayed", parent=key)
        before = contents(raw)
        assert self.put_aside(run)
        assert changes(before, contents(raw)) == {
            f"{key}:lock": None,
            f"{Q}:active": None,
            f"{Q}:stalled": None,
            f"{Q}:waiting-children": {"p": NOW + 5},
            f"{Q}:events": [{"event": "waiting-children", "jobId": "p", "prev": "active"}],
        }

    def test_for_one_child(self, run: Runner, raw: redis.Redis, seed: Seed, key: str) -> None:
        child = seed.job("c", parent=key)
        assert not self.put_aside(run, child_key=f"{Q}:other")
        assert raw.lrange(f"{Q}:active", 0, -1) == ["p"]
        assert self.put_aside(run, child_key=child)

    def test_nothing_to_wait_for(self, run: Runner, raw: redis.Redis, key: str) -> None:
        before = contents(raw)
        assert not self.put_aside(run)
        assert contents(raw) == before

    def test_it_makes_room(self, run: Runner, raw: redis.Redis, seed: Seed, key: str) -> None:
        raw.hset(f"{Q}:meta", "concurrency", "1")
        seed.job("c", parent=key)  # added while the queue was maxed: no marker
        self.put_aside(run)
        assert raw.zscore(f"{Q}:marker", "0") == 0

    @pytest.mark.parametrize(("harm", "error"), HARMS)
    def test_refused(
        self,
        run: Runner,
        raw: redis.Redis,
        seed: Seed,
        key: str,
        harm: Harm,
        error: type[JobError],
    ) -> None:
        seed.job("c", parent=key)
        harm(raw, key)
        with pytest.raises(error) as caught:
            self.put_aside(run)
        assert (caught.value.queue, caught.value.job_id) == ("mail", "p")
        assert not raw.exists(f"{Q}:waiting-children")


class TestStalled:
    def check(self, run: Runner, now: int, interval: int = 1000, **more: Any) -> StalledReport:
        more.setdefault("max_stalled", 1)
        report: StalledReport = run(stalled_check(Q, now=now, interval_ms=interval, **more))
        return report

    def vanish(self, run: Runner, raw: redis.Redis, *names: str) -> None:
        """These jobs run at the first check, and have no lock at the next."""
        run(add_jobs([node(name) for name in names], now=NOW))
        take(run, len(names))
        self.check(run, NOW)
        raw.delete(*(f"{Q}:{name}:lock" for name in names))

    def test_back_to_run_next(self, run: Runner, raw: redis.Redis, seed: Seed) -> None:
        self.vanish(run, raw, "j")
        seed.job("other")
        before = contents(raw)
        wants = frozenset({"toril_jobs_stalled"})
        report = self.check(run, NOW + 1000, wants=wants)
        assert report == StalledReport(ran=True, next_in_ms=1000, recovered=1)
        assert run.events == [JobStalled(JobRef("mail", "j"), 1, fails_next=False)]
        changed = changes(before, contents(raw))
        assert changed.pop(f"{Q}:events")[-2:] == [
            {"event": "waiting", "jobId": "j", "prev": "active"},
            {"event": "stalled", "jobId": "j"},
        ]
        assert changed == {
            f"{Q}:j": {**before[f"{Q}:j"], "stc": "1"},
            f"{Q}:active": None,
            f"{Q}:stalled": None,
            f"{Q}:stalled-check": str(NOW + 1000),
            f"{Q}:wait": ["other", "j"],
        }

    def test_too_often(self, run: Runner, raw: redis.Redis) -> None:
        self.vanish(run, raw, "j")
        report = self.check(run, NOW + 1000, max_stalled=0)
        assert report.failing == 1
        assert raw.hget(f"{Q}:j", "defa") == "job stalled more than allowable limit"
        assert raw.lrange(f"{Q}:wait", 0, -1) == ["j"]

    @pytest.mark.parametrize("record", ["hash", "member", None])
    def test_a_schedule_s_job_never_fails_for_it(
        self, run: Runner, raw: redis.Redis, record: str | None
    ) -> None:
        self.vanish(run, raw, "j")
        raw.hset(f"{Q}:j", "rjk", "s")
        if record == "hash":
            raw.hset(f"{Q}:repeat:s", "ic", 1)
        elif record:
            raw.zadd(f"{Q}:repeat", {"s": 1})
        self.check(run, NOW + 1000, max_stalled=0)
        assert raw.hexists(f"{Q}:j", "defa") == (record is None)

    def test_a_lock_protects(self, run: Runner, raw: redis.Redis) -> None:
        run(add_jobs([node("j")], now=NOW))
        take(run)
        self.check(run, NOW)
        assert self.check(run, NOW + 1000).recovered == 0
        assert raw.lrange(f"{Q}:active", 0, -1) == ["j"]

    def test_a_job_seen_for_the_first_time_is_only_noted(
        self, run: Runner, raw: redis.Redis, seed: Seed
    ) -> None:
        seed.job("j", "active")
        assert self.check(run, NOW).recovered == 0
        assert raw.smembers(f"{Q}:stalled") == {"j"}

    def test_one_that_has_ended_meanwhile_is_left_alone(
        self, run: Runner, raw: redis.Redis
    ) -> None:
        self.vanish(run, raw, "j")
        raw.lrem(f"{Q}:active", 1, "j")
        assert self.check(run, NOW + 1000).recovered == 0
        assert not raw.exists(f"{Q}:wait")

    @pytest.mark.parametrize("kind", ["gone", "stub", "text"])
    def test_an_id_without_a_job_is_dropped(self, run: Runner, raw: redis.Redis, kind: str) -> None:
        self.vanish(run, raw, "a", "ghost", "b")
        raw.delete(f"{Q}:ghost")
        if kind == "stub":
            raw.hset(f"{Q}:ghost", "ats", 1)
        elif kind == "text":
            raw.set(f"{Q}:ghost", "a text")
        report = self.check(run, NOW + 1000)
        assert (report.recovered, report.dropped) == (2, ("ghost",))
        assert set(raw.lrange(f"{Q}:wait", 0, -1)) == {"a", "b"}

    def test_once_per_interval(self, run: Runner, raw: redis.Redis) -> None:
        self.vanish(run, raw, "j")
        report = self.check(run, NOW + 400)
        assert report == StalledReport(ran=False, next_in_ms=600)
        assert raw.lrange(f"{Q}:active", 0, -1) == ["j"]
        assert self.check(run, NOW + 1000).ran

    def test_the_shortest_interval_rules(self, run: Runner, raw: redis.Redis) -> None:
        self.check(run, NOW, interval=60_000)
        assert self.check(run, NOW + 1000, interval=1000).ran

    @pytest.mark.parametrize("value", ["a text", str(NOW + 10**9), "", "nan"])
    def test_a_garbled_or_future_turn_stops_nobody(
        self, run: Runner, raw: redis.Redis, value: str
    ) -> None:
        raw.set(f"{Q}:stalled-check", value)
        assert self.check(run, NOW).ran

    def test_an_interrupted_check_is_taken_up(self, run: Runner, raw: redis.Redis) -> None:
        self.vanish(run, raw, "a", "b")
        raw.rename(f"{Q}:stalled", f"{Q}:toril:stalled:check")
        raw.sadd(f"{Q}:stalled", "b")
        assert self.check(run, NOW + 1000).recovered == 2
        assert not raw.exists(f"{Q}:toril:stalled:check")

    def test_slices(self, run: Runner, raw: redis.Redis) -> None:
        for start in range(0, 1200, 200):
            run(add_jobs([node(f"j{i}") for i in range(start, start + 200)], now=NOW))
        for n in range(12):
            take(run, 100, f"t:{n}")
        self.check(run, NOW)
        assert raw.scard(f"{Q}:stalled") == 1200
        raw.delete(*(f"{Q}:j{i}:lock" for i in range(0, 1200, 2)))
        report = self.check(run, NOW + 1000)
        assert report.recovered == 600
        assert raw.llen(f"{Q}:wait") == 600
        assert raw.scard(f"{Q}:stalled") == raw.llen(f"{Q}:active") == 600
        assert event_names(contents(raw)[f"{Q}:events"]).count("stalled") == 600
