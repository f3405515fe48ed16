"""Giving a job another delay or another priority."""

from __future__ import annotations

import pytest
import redis
from tests.lua.conftest import fill
from tests.lua.database import changes, contents, events
from tests.lua.running import Runner
from tests.lua.seeding import NOW, Q, Seed

from toril.connection.call import Call
from toril.errors import IndeterminateError, JobNotFound, JobStateError
from toril.protocol.changing import change_delay, change_priority
from toril.protocol.record import CallRecord

STEP = 2**32
CAP = {"opts.maxLenEvents": "10000"}
RECORD = CallRecord("p", 0, 7)


class TestDelay:
    def test_another_delay(self, run: Runner, seed: Seed, raw: redis.Redis) -> None:
        key = seed.job("j", "delayed", score=(NOW + 5000) * 4096, delay=5000)
        before = contents(raw)
        run(change_delay(Q, "j", 60_000, now=NOW + 1))
        assert changes(before, contents(raw)) == {
            f"{Q}:delayed": {"j": (NOW + 60_001) * 4096},
            f"{Q}:events": [{"event": "delayed", "jobId": "j", "delay": str(NOW + 60_001)}],
            f"{Q}:marker": {"1": NOW + 60_001},
            f"{Q}:meta": CAP,
            key: before[key] | {"delay": "60000"},
        }

    def test_it_goes_behind_what_is_due_in_the_same_millisecond(
        self, run: Runner, seed: Seed, raw: redis.Redis
    ) -> None:
        seed.job("first", "delayed", score=(NOW + 5) * 4096)
        seed.job("j", "delayed", score=(NOW + 9) * 4096)
        run(change_delay(Q, "j", 5, now=NOW))
        assert raw.zrange(f"{Q}:delayed", 0, -1, withscores=True) == [
            ("first", (NOW + 5) * 4096),
            ("j", (NOW + 5) * 4096 + 1),
        ]

    def test_the_marker_follows_the_earliest(
        self, run: Runner, seed: Seed, raw: redis.Redis
    ) -> None:
        raw.hset(f"{Q}:meta", "paused", 1)
        seed.job("other", "delayed", score=(NOW + 50) * 4096)
        seed.job("j", "delayed", score=(NOW + 9) * 4096)
        run(change_delay(Q, "j", 90, now=NOW))
        assert contents(raw)[f"{Q}:marker"] == {"1": NOW + 50}

    @pytest.mark.parametrize("state", ["wait", "active", "completed", None])
    def test_refusals(self, run: Runner, seed: Seed, raw: redis.Redis, state: str | None) -> None:
        seed.job("j", state)
        seed.put("ghost", "delayed")
        raw.set(f"{Q}:garbled", "a string")
        seed.put("garbled", "delayed")
        before = contents(raw)
        with pytest.raises(JobStateError, match="job 'j' of queue 'mail' is not delayed"):
            run(change_delay(Q, "j", 5, now=NOW))
        for gone in ("ghost", "garbled", "nobody", "wait"):
            with pytest.raises(JobNotFound):
                run(change_delay(Q, gone, 5, now=NOW))
        assert changes(before, contents(raw)) == {}

    def test_sent_again(self, run: Runner, seed: Seed, raw: redis.Redis) -> None:
        seed.job("j", "delayed", score=NOW * 4096)
        call = change_delay(Q, "j", 5, now=NOW, record=RECORD)
        run(call)
        raw.zrem(f"{Q}:delayed", "j")  # meanwhile it runs
        before = contents(raw)
        run(call)
        assert changes(before, contents(raw)) == {}


class TestPriority:
    @pytest.mark.parametrize(
        ("lifo", "wait", "prioritized"),
        [(False, ["j", "w"], {}), (True, ["w", "j"], {})],
    )
    def test_none_any_more(
        self,
        run: Runner,
        seed: Seed,
        raw: redis.Redis,
        lifo: bool,
        wait: list[str],
        prioritized: dict[str, int],
    ) -> None:
        seed.job("w")
        key = seed.job("j", "prioritized", score=3 * STEP + 1, priority=3)
        before = contents(raw)
        run(change_priority(Q, "j", 0, lifo=lifo))
        assert changes(before, contents(raw)) == {
            f"{Q}:wait": wait,
            f"{Q}:prioritized": None,
            f"{Q}:marker": {"0": 0},
            key: before[key] | {"priority": "0"},
        }

    def test_one_that_waited_without(self, run: Runner, seed: Seed, raw: redis.Redis) -> None:
        raw.set(f"{Q}:pc", 4)
        seed.job("j")
        run(change_priority(Q, "j", 9))
        assert contents(raw)[f"{Q}:prioritized"] == {"j": 9 * STEP + 5}
        assert not raw.exists(f"{Q}:wait")
        assert raw.zscore(f"{Q}:marker", "0") == 0

    def test_the_front_of_a_priority(self, run: Runner, seed: Seed, raw: redis.Redis) -> None:
        seed.job("first", "prioritized", score=9 * STEP + 1, priority=9)
        seed.job("j")
        run(change_priority(Q, "j", 9, lifo=True))
        assert raw.zrange(f"{Q}:prioritized", 0, -1) == ["j", "first"]
        assert not raw.exists(f"{Q}:pc", f"{Q}:marker")

    def test_a_blocked_queue_gets_no_marker(
        self, run: Runner, seed: Seed, raw: redis.Redis
    ) -> None:
        raw.hset(f"{Q}:meta", "paused", 1)
        seed.job("j")
        run(change_priority(Q, "j", 1))
        assert not raw.exists(f"{Q}:marker")

    @pytest.mark.parametrize("state", ["delayed", "active", "failed", "waiting-children", None])
    def test_elsewhere_only_the_field_changes(
        self, run: Runner, seed: Seed, raw: redis.Redis, state: str | None
    ) -> None:
        key = seed.job("j", state)
        before = contents(raw)
        run(change_priority(Q, "j", 7))
        assert changes(before, contents(raw)) == {key: before[key] | {"priority": "7"}}
        assert events(raw, Q) == []

    def test_refusals(self, run: Runner, seed: Seed, raw: redis.Redis) -> None:
        seed.put("ghost", "wait")
        before = contents(raw)
        for gone in ("ghost", "nobody", "wait"):
            with pytest.raises(JobNotFound):
                run(change_priority(Q, gone, 1))
        assert changes(before, contents(raw)) == {}

    def test_sent_again_and_too_late(self, run: Runner, seed: Seed, raw: redis.Redis) -> None:
        seed.job("j")
        call = change_priority(Q, "j", 2, record=RECORD)
        run(call)
        before = contents(raw)
        run(call)
        assert changes(before, contents(raw)) == {}
        with pytest.raises(IndeterminateError, match="after a later one"):
            run(change_priority(Q, "j", 3, record=CallRecord("p", 0, 6)))
        assert raw.hget(f"{Q}:j", "priority") == "2"


@pytest.mark.parametrize(
    "call",
    [
        change_delay(Q, "late", 5, now=NOW, record=RECORD),
        change_priority(Q, "late", 5, record=RECORD),
        change_priority(Q, "ready", 5, record=RECORD),
    ],
)
def test_on_a_full_server(own_server: redis.Redis, call: Call[None]) -> None:
    seed, run = Seed(own_server), Runner(own_server)
    seed.job("late", "delayed", score=NOW * 4096)
    seed.job("ready")
    fill(own_server)
    before = contents(own_server)
    run(call)
    assert contents(own_server) != before
    run(call)
