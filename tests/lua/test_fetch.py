"""`tick`: picking up jobs."""

from __future__ import annotations

import pytest
import redis
from tests.lua.database import changes, contents
from tests.lua.making import LOCK_MS, end, event_names, fetch, finish, node, stored_fields, take
from tests.lua.running import Runner
from tests.lua.seeding import NOW, Q, Seed

from toril.protocol.adding import add_jobs
from toril.protocol.finishing import TickReply, tick
from toril.protocol.record import CallRecord


def test_one_job(run: Runner, raw: redis.Redis) -> None:
    run(add_jobs([node("j", data='{"a":1}')], now=NOW))
    raw.delete(f"{Q}:marker")
    before = contents(raw)
    reply = take(run)
    (job,) = reply.jobs
    assert (job.queue, job.id, job.data) == ("mail", "j", {"a": 1})
    assert (job.processed, job.attempts_started) == (NOW, 1)
    assert changes(before, contents(raw)) == {
        f"{Q}:j": {**before[f"{Q}:j"], "processedOn": str(NOW), "ats": "1"},
        f"{Q}:j:lock": "t:1",
        f"{Q}:wait": None,
        f"{Q}:active": ["j"],
        f"{Q}:events": [
            *before[f"{Q}:events"],
            {"event": "active", "jobId": "j", "prev": "waiting"},
        ],
    }
    assert 0 < raw.pttl(f"{Q}:j:lock") <= LOCK_MS
    assert reply == TickReply((), reply.jobs, (), None, None, blocked=False, more=False, at=NOW)


def test_a_fetch_that_was_sent_ahead_says_when_it_was_carried_out(
    run: Runner, raw: redis.Redis
) -> None:
    run(add_jobs([node("j")], now=NOW))
    seconds, micros = raw.time()
    offset = NOW - (seconds * 1000 + micros / 1000)
    record = CallRecord("w", 0, 1)
    call = tick(Q, now=7, offset=offset, fetch=fetch(), record=record)
    reply = run(call)
    (job,) = reply.jobs
    assert NOW <= reply.at < NOW + 5000
    assert job.processed == reply.at
    assert raw.hget(f"{Q}:j", "processedOn") == str(reply.at)
    again = tick(Q, now=8, fetch=fetch(), record=record)
    for each in (call, again):  # the same call, however it comes
        told = run(each)
        assert (told.at, [one.fields for one in told.jobs]) == (reply.at, [job.fields])
    assert raw.pttl(f"{Q}:toril:call:w:0") > 2 * LOCK_MS


def test_the_snapshot_is_the_stored_hash(run: Runner, raw: redis.Redis) -> None:
    run(add_jobs([node("j", own={"x": 1})], now=NOW))
    run(tick(Q, now=NOW, fetch=fetch(token="t:1", worker_name="w1")))
    end(run, finish("j", kind="retry", value="boom"))
    reply = run(tick(Q, now=NOW + 9, fetch=fetch(token="t:2", worker_name="wörker")))
    stored = stored_fields(raw, f"{Q}:j")
    assert reply.jobs[0].fields == stored
    assert stored[b"pb"].decode() == "wörker"
    assert reply.jobs[0].attempts_started == 2


def test_order_and_places(run: Runner, raw: redis.Redis) -> None:
    nodes = [node("a"), node("p9", opts={"priority": 9}), node("p1", opts={"priority": 1})]
    run(add_jobs([*nodes, node("b")], now=NOW))
    assert [job.id for job in take(run, 3).jobs] == ["a", "b", "p1"]
    assert raw.lrange(f"{Q}:active", 0, -1) == ["p1", "b", "a"]
    assert raw.zrange(f"{Q}:prioritized", 0, -1) == ["p9"]
    assert raw.get(f"{Q}:pc") == "2"
    assert [job.id for job in take(run, 3, "t:2").jobs] == ["p9"]
    assert not raw.exists(f"{Q}:pc")


def test_the_marker_is_written_only_if_something_is_left(run: Runner, raw: redis.Redis) -> None:
    run(add_jobs([node("a"), node("b")], now=NOW))
    raw.delete(f"{Q}:marker")
    assert take(run, 1).more
    assert raw.zscore(f"{Q}:marker", "0") == 0
    raw.delete(f"{Q}:marker")
    assert not take(run, 1, "t:2").more
    assert not raw.exists(f"{Q}:marker")


def test_a_finish_without_a_fetch_wakes_another(run: Runner, raw: redis.Redis) -> None:
    raw.hset(f"{Q}:meta", "concurrency", "1")
    run(add_jobs([node("a")], now=NOW))
    take(run)
    raw.delete(f"{Q}:marker")
    run(add_jobs([node("b")], now=NOW))  # while the queue is maxed: no marker
    assert not raw.exists(f"{Q}:marker")
    end(run, finish("a"))
    assert raw.zscore(f"{Q}:marker", "0") == 0


def test_due_jobs_are_promoted_by_their_priority(run: Runner, raw: redis.Redis) -> None:
    for name, opts in (
        ("a", {"delay": 10}),
        ("p", {"delay": 5, "priority": 2}),
        ("z", {"delay": 99}),
    ):
        run(add_jobs([node(name, opts=opts)], now=NOW))
    reply = run(tick(Q, now=NOW + 10, fetch=fetch(10)))
    assert [job.id for job in reply.jobs] == ["a", "p"]
    assert reply.next_due_ms == NOW + 99
    assert raw.hget(f"{Q}:a", "delay") == "0"
    names = [(e["event"], e.get("jobId")) for e in contents(raw)[f"{Q}:events"][6:]]
    assert names == [("waiting", "p"), ("waiting", "a"), ("active", "a"), ("active", "p")]


def test_promotion_goes_on_while_paused(run: Runner, raw: redis.Redis) -> None:
    run(add_jobs([node("a", opts={"delay": 10})], now=NOW))
    raw.hset(f"{Q}:meta", "paused", "1")
    reply = run(tick(Q, now=NOW + 10, fetch=fetch()))
    assert (reply.jobs, reply.blocked) == ((), True)
    assert raw.lrange(f"{Q}:wait", 0, -1) == ["a"]
    assert raw.zscore(f"{Q}:marker", "0") is None


def test_200_promotions_a_call_and_a_marker_for_the_rest(run: Runner, raw: redis.Redis) -> None:
    for start in range(0, 450, 150):
        batch = [node(f"j{i}", opts={"delay": 1}) for i in range(start, start + 150)]
        run(add_jobs(batch, now=NOW))
    reply = run(tick(Q, now=NOW + 9, fetch=fetch(100)))
    assert len(reply.jobs) == 100
    assert reply.more
    assert raw.zcard(f"{Q}:delayed") == 250
    assert raw.zscore(f"{Q}:marker", "0") == 0


def test_global_concurrency(run: Runner, raw: redis.Redis) -> None:
    run(add_jobs([node(f"j{i}") for i in range(5)], now=NOW))
    raw.hset(f"{Q}:meta", "concurrency", "3")
    assert len(take(run, 2).jobs) == 2
    assert len(take(run, 5, "t:2").jobs) == 1
    raw.delete(f"{Q}:marker")
    reply = take(run, 5, "t:3")
    assert (reply.jobs, reply.blocked) == ((), True)
    assert not raw.exists(f"{Q}:marker")
    # The slot of the job that is finished here can be taken by the same call.
    reply = end(run, finish("j0"), fetch=fetch(5, "t:4"))
    assert (reply.codes, len(reply.jobs)) == ((0,), 1)


class TestRateLimit:
    def reply(self, run: Runner, limit: int, maximum: int | None = 3, ms: int = 1000) -> TickReply:
        self.calls = getattr(self, "calls", 0) + 1
        wish = fetch(
            limit, f"t:{self.calls}", rate_max=maximum, rate_duration_ms=ms if maximum else None
        )
        reply: TickReply = run(tick(Q, now=NOW, fetch=wish))
        return reply

    @pytest.fixture(autouse=True)
    def jobs(self, run: Runner) -> None:
        run(add_jobs([node(f"j{i}") for i in range(10)], now=NOW))

    def test_the_worker_s(self, run: Runner, raw: redis.Redis) -> None:
        assert len(self.reply(run, 2).jobs) == 2
        assert raw.get(f"{Q}:limiter") == "2"
        assert 0 < raw.pttl(f"{Q}:limiter") <= 1000
        assert len(self.reply(run, 5).jobs) == 1
        reply = self.reply(run, 5)
        assert reply.jobs == ()
        assert reply.limited_ms
        assert 0 < reply.limited_ms <= 1000

    def test_the_queue_s_goes_before_it(self, run: Runner, raw: redis.Redis) -> None:
        raw.hset(f"{Q}:meta", mapping={"max": "1", "duration": "5000"})
        assert len(self.reply(run, 5).jobs) == 1
        # The number is the queue's, the duration the worker's, as in BullMQ.
        assert 0 < raw.pttl(f"{Q}:limiter") <= 1000

    def test_the_queue_s_alone(self, run: Runner, raw: redis.Redis) -> None:
        raw.hset(f"{Q}:meta", mapping={"max": "4", "duration": "5000"})
        assert len(self.reply(run, 5, None).jobs) == 4
        assert 1000 < raw.pttl(f"{Q}:limiter") <= 5000

    def test_a_limit_without_a_duration_limits_nothing(self, run: Runner, raw: redis.Redis) -> None:
        raw.hset(f"{Q}:meta", "max", "1")
        assert len(self.reply(run, 5, None).jobs) == 5
        assert not raw.exists(f"{Q}:limiter")

    def test_a_counter_without_an_end_gets_one(self, run: Runner, raw: redis.Redis) -> None:
        raw.set(f"{Q}:limiter", 1)
        assert len(self.reply(run, 1).jobs) == 1
        assert raw.get(f"{Q}:limiter") == "2"
        assert raw.pttl(f"{Q}:limiter") > 0

    def test_a_full_counter_without_an_end_does_not_stop_for_ever(
        self, run: Runner, raw: redis.Redis
    ) -> None:
        raw.set(f"{Q}:limiter", 9)
        assert len(self.reply(run, 5).jobs) == 3
        assert raw.pttl(f"{Q}:limiter") > 0

    def test_a_manual_limit_is_a_very_large_counter(self, run: Runner, raw: redis.Redis) -> None:
        raw.set(f"{Q}:limiter", 2**53 - 1, px=700)
        limited = self.reply(run, 5).limited_ms
        assert limited
        assert 0 < limited <= 700
        assert raw.get(f"{Q}:limiter") == str(2**53 - 1)

    def test_decided_jobs_do_not_count(self, run: Runner, raw: redis.Redis) -> None:
        raw.hset(f"{Q}:j0", "defa", "child x failed")
        assert len(self.reply(run, 2).jobs) == 2
        assert raw.get(f"{Q}:limiter") == "1"

    def test_a_limited_worker_does_not_wake_others(self, run: Runner, raw: redis.Redis) -> None:
        self.reply(run, 3)
        raw.delete(f"{Q}:marker")
        assert self.reply(run, 3).limited_ms
        assert not raw.exists(f"{Q}:marker")


class TestWhatCannotBeRun:
    def test_an_id_without_a_job_is_dropped(
        self, run: Runner, raw: redis.Redis, seed: Seed
    ) -> None:
        seed.put("ghost", "wait")
        seed.job("j")
        reply = take(run, 5)
        assert [job.id for job in reply.jobs] == ["j"]
        assert reply.dropped == ("ghost",)
        assert raw.lrange(f"{Q}:active", 0, -1) == ["j"]
        assert not raw.exists(f"{Q}:ghost", f"{Q}:ghost:lock")

    def test_the_stub_that_a_foreign_pickup_leaves_goes_too(
        self, run: Runner, raw: redis.Redis, seed: Seed
    ) -> None:
        raw.hset(f"{Q}:ghost", mapping={"ats": 1, "processedOn": NOW, "stc": 1})
        seed.put("ghost", "wait")
        assert take(run, 5).dropped == ("ghost",)
        assert not raw.exists(f"{Q}:ghost")

    def test_a_key_that_is_no_hash_is_left_alone(
        self, run: Runner, raw: redis.Redis, seed: Seed
    ) -> None:
        raw.set(f"{Q}:text", "not a job")
        seed.put("text", "wait")
        seed.job("j")
        reply = take(run, 5)
        assert (reply.dropped, [job.id for job in reply.jobs]) == (("text",), ["j"])
        assert raw.get(f"{Q}:text") == "not a job"

    def test_markers_of_old_versions_are_dropped(
        self, run: Runner, raw: redis.Redis, seed: Seed
    ) -> None:
        seed.put("0:0", "wait")
        seed.put("0:1790000000000", "wait")
        seed.job("j")
        assert [job.id for job in take(run, 3).jobs] == ["j"]

    def test_a_delayed_id_without_a_job_is_dropped(
        self, run: Runner, raw: redis.Redis, seed: Seed
    ) -> None:
        seed.put("ghost", "delayed", score=NOW * 4096)
        seed.job("j", "delayed", score=NOW * 4096 + 1)
        reply = take(run, 5)
        assert (reply.dropped, [job.id for job in reply.jobs]) == (("ghost",), ["j"])
        assert not raw.exists(f"{Q}:delayed", f"{Q}:ghost")

    def test_garbled_numbers_count_as_nothing(
        self, run: Runner, raw: redis.Redis, seed: Seed
    ) -> None:
        seed.job("j", ats="many", priority="high", atm="nan")
        (job,) = take(run).jobs
        assert job.attempts_started == 1
        assert end(run, finish(job, kind="retry", value="x")).codes == (0,)
        assert raw.hget(f"{Q}:j", "atm") == "1"


class TestSize:
    def test_a_call_brings_about_a_megabyte(self, run: Runner, raw: redis.Redis) -> None:
        data = '"' + "x" * 300_000 + '"'
        run(add_jobs([node(f"j{i}", data=data) for i in range(6)], now=NOW))
        run(add_jobs([node("p", data=data, opts={"priority": 1})], now=NOW))
        before = raw.zrange(f"{Q}:prioritized", 0, -1, withscores=True)
        names = event_names(contents(raw)[f"{Q}:events"])
        reply = take(run, 10)
        assert [job.id for job in reply.jobs] == ["j0", "j1", "j2", "j3"]
        assert reply.more
        # The rest is where it was, and nobody heard of it.
        assert raw.lrange(f"{Q}:wait", 0, -1) == ["j5", "j4"]
        assert raw.zrange(f"{Q}:prioritized", 0, -1, withscores=True) == before
        assert event_names(contents(raw)[f"{Q}:events"]) == [*names, *["active"] * 4]
        assert raw.zscore(f"{Q}:marker", "0") == 0

    def test_a_larger_job_comes_alone(self, run: Runner) -> None:
        data = '"' + "x" * 2_000_000 + '"'
        run(add_jobs([node("big", data=data), node("small")], now=NOW))
        assert [job.id for job in take(run, 5).jobs] == ["big"]
        assert [job.id for job in take(run, 5, "t:2").jobs] == ["small"]

    def test_100_jobs_a_call(self, run: Runner, raw: redis.Redis) -> None:
        run(add_jobs([node(f"j{i}") for i in range(150)], now=NOW))
        assert len(take(run, 1000).jobs) == 100
        assert raw.llen(f"{Q}:wait") == 50


def test_nothing_is_taken_without_a_wish(run: Runner, raw: redis.Redis, seed: Seed) -> None:
    seed.job("j")
    reply = run(tick(Q, now=NOW))
    assert reply == TickReply((), (), (), None, None, blocked=False, more=False, at=NOW)
    assert raw.lrange(f"{Q}:wait", 0, -1) == ["j"]


def test_finish_and_fetch_in_one_call(run: Runner, raw: redis.Redis) -> None:
    run(add_jobs([node("a"), node("b"), node("c")], now=NOW))
    take(run)
    reply = end(run, finish("a"), fetch=fetch(5, "t:2"))
    assert [job.id for job in reply.jobs] == ["b", "c"]
    assert raw.get(f"{Q}:b:lock") == "t:2"
    names = event_names(contents(raw)[f"{Q}:events"])
    assert names[-4:] == ["active", "completed", "active", "active"]
