"""Call records: a call that is sent again does nothing and answers as the first did."""

from __future__ import annotations

import pytest
import redis
from tests.lua.database import contents
from tests.lua.making import fetch, finish, node, take
from tests.lua.running import Runner
from tests.lua.seeding import NOW, OTHER, Q, Seed

from toril.connection.call import Resend
from toril.errors import IndeterminateError
from toril.protocol.adding import add_flow, add_jobs
from toril.protocol.finishing import tick
from toril.protocol.locking import wait_children
from toril.protocol.record import CallRecord


def record(n: int) -> CallRecord:
    return CallRecord("me", 3, n)


class TestAdd:
    def test_again_is_answered_from_the_record(self, run: Runner, raw: redis.Redis) -> None:
        call = add_jobs(
            [node("a"), node("", counter=True), node("c", parent=f"{OTHER}:gone")],
            now=NOW,
            record=record(1),
        )
        first = run(call)
        raw.delete(f"{Q}:a")  # it has run and was removed in the meantime
        before = contents(raw)
        second = run(call)
        assert [(one.id, one.duplicate) for one in second] == [
            (one.id, one.duplicate) for one in first
        ]
        assert [type(one.error) for one in second] == [type(one.error) for one in first]
        assert contents(raw) == before

    def test_a_late_one_is_refused(self, run: Runner, raw: redis.Redis) -> None:
        late = add_jobs([node("a")], now=NOW, record=record(1))
        run(add_jobs([node("b")], now=NOW, record=record(2)))
        before = contents(raw)
        with pytest.raises(IndeterminateError):
            run(late)
        assert contents(raw) == before

    def test_what_is_recorded_beforehand_is_put_back(self, run: Runner, raw: redis.Redis) -> None:
        late, call = (add_jobs([node(f"j{n}")], now=NOW, record=record(n)) for n in (1, 2))
        run(add_jobs([node("first")], now=NOW))
        run(call)
        raw.delete(f"{Q}:j2")
        before = contents(raw)
        assert [one.error for one in run(call)] == [None]
        with pytest.raises(IndeterminateError):
            run(late)
        assert contents(raw) == before

    def test_another_outcome_than_was_expected_is_recorded(
        self, run: Runner, raw: redis.Redis
    ) -> None:
        run(add_jobs([node("first")], now=NOW))
        raw.delete(f"{Q}:wait")
        raw.set(f"{Q}:wait", "no list")
        call = add_jobs([node("a")], now=NOW, record=record(1))
        (first,) = run(call)
        raw.delete(f"{Q}:wait")
        (second,) = run(call)
        assert first.error is not None
        assert str(second.error) == str(first.error)
        assert not raw.exists(f"{Q}:a", f"{Q}:wait")

    def test_the_next_one_is_carried_out(self, run: Runner, raw: redis.Redis) -> None:
        for n in (1, 2, 3):
            run(add_jobs([node(f"j{n}")], now=NOW, record=record(n)))
        assert raw.llen(f"{Q}:wait") == 3

    def test_lanes_and_callers_do_not_meet(self, run: Runner, raw: redis.Redis) -> None:
        for who, lane in (("me", 0), ("me", 1), ("you", 0)):
            run(add_jobs([node(f"{who}{lane}")], now=NOW, record=CallRecord(who, lane, 1)))
        assert raw.llen(f"{Q}:wait") == 3

    def test_it_expires(self, run: Runner, raw: redis.Redis) -> None:
        run(add_jobs([node("a")], now=NOW, record=record(1)))
        assert 100_000 < raw.pttl(f"{Q}:toril:call:me:3") <= 120_000

    def test_a_flow_s_record_is_with_the_root(self, run: Runner, raw: redis.Redis) -> None:
        nodes = [node("root", is_parent=True), node("c", OTHER, f"{Q}:root")]
        call = add_flow(nodes, now=NOW, record=record(1))
        run(call)
        before = contents(raw)
        assert [one.duplicate for one in run(call)] == [False, False]
        assert contents(raw) == before
        assert raw.keys("*:toril:*") == [f"{Q}:toril:call:me:3"]


class TestTick:
    def test_again_brings_codes_and_the_jobs_still_held(
        self, run: Runner, raw: redis.Redis, seed: Seed
    ) -> None:
        run(add_jobs([node(f"j{i}", data=str(i)) for i in range(5)], now=NOW))
        take(run)
        seed.put("ghost", "wait")
        call = tick(
            Q,
            now=NOW + 5,
            finishes=[finish("j0"), finish("gone")],
            fetch=fetch(4, "t:2"),
            record=record(1),
        )
        first = run(call)
        assert first.codes == (0, -1)
        raw.set(f"{Q}:j2:lock", "another's")
        raw.delete(f"{Q}:j3:lock")
        before = contents(raw)
        second = run(call)
        assert contents(raw) == before
        assert second.codes == first.codes
        assert second.dropped == first.dropped
        assert [job.id for job in second.jobs] == ["j1", "j4"]
        assert second.jobs[0].fields == first.jobs[0].fields
        assert (second.more, second.next_due_ms) == (first.more, first.next_due_ms)

    def test_a_late_one_is_refused(self, run: Runner, raw: redis.Redis, seed: Seed) -> None:
        seed.job("j")
        run(tick(Q, now=NOW, fetch=fetch(1, "t:2"), record=record(2)))
        before = contents(raw)
        with pytest.raises(IndeterminateError):
            run(tick(Q, now=NOW, fetch=fetch(1, "t:1"), record=record(1)))
        assert contents(raw) == before

    def test_events_are_told_again(self, run: Runner, raw: redis.Redis) -> None:
        run(add_jobs([node("j")], now=NOW))
        take(run)
        wants = frozenset({"toril_jobs_completed"})
        call = tick(Q, now=NOW, finishes=[finish("j")], record=record(1), wants=wants)
        run(call)
        run(call)  # the first reply was lost, so nobody has heard of it
        assert len(run.events) == 2

    def test_it_lives_for_two_locks(self, run: Runner, raw: redis.Redis) -> None:
        run(tick(Q, now=NOW, fetch=fetch(1), record=record(1)))
        assert 50_000 < raw.pttl(f"{Q}:toril:call:me:3") <= 60_000


def test_wait_children_again(run: Runner, raw: redis.Redis, seed: Seed) -> None:
    key = seed.job("p", "active")
    raw.set(f"{key}:lock", "t:1")
    seed.job("c", parent=key)
    call = wait_children(Q, "p", "t:1", now=NOW, record=record(1))
    assert run(call)
    before = contents(raw)
    assert run(call)
    assert contents(raw) == before


def test_only_a_recorded_call_may_be_sent_again() -> None:
    assert tick(Q, now=NOW).resend is Resend.NEVER
    assert tick(Q, now=NOW, record=record(1)).resend is Resend.RECORDED
    assert add_jobs([node("a")], now=NOW, record=record(1)).resend is Resend.RECORDED
