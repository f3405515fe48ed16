"""Limits of a whole queue: what `limits` writes, and jobs that ask for a rate limit."""

from __future__ import annotations

from typing import Any

import pytest
import redis
from tests.lua.conftest import fill
from tests.lua.database import changes, contents
from tests.lua.making import active, end, fetch, finish, take
from tests.lua.running import Runner
from tests.lua.seeding import NOW, Q, Seed

from toril.protocol import changing, reading
from toril.protocol.finishing import tick
from toril.protocol.record import CallRecord

EVERYTHING = "9007199254740991"


class TestSetting:
    def test_what_is_said_and_unsaid(self, run: Runner, raw: redis.Redis) -> None:
        raw.hset(f"{Q}:meta", mapping={"opts.maxLenEvents": 5, "version": "x", "max": 1})
        run(changing.set_limits(Q, set={"concurrency": 3, "max": 10, "duration": 1000}))
        meta = {"opts.maxLenEvents": "5", "version": "x"}
        limits = {"concurrency": "3", "max": "10", "duration": "1000"}
        assert raw.hgetall(f"{Q}:meta") == meta | limits
        run(changing.set_limits(Q, unset=("max", "duration")))
        assert raw.hgetall(f"{Q}:meta") == meta | {"concurrency": "3"}

    def test_more_room_wakes_a_worker(self, run: Runner, raw: redis.Redis, seed: Seed) -> None:
        raw.hset(f"{Q}:meta", "concurrency", 1)
        active(raw, seed)
        seed.job("next")
        run(changing.set_limits(Q, set={"concurrency": 1}))
        assert not raw.exists(f"{Q}:marker")
        run(changing.set_limits(Q, set={"concurrency": 2}))
        assert raw.zscore(f"{Q}:marker", "0") == 0

    def test_holding_back(self, run: Runner, raw: redis.Redis) -> None:
        raw.hset(f"{Q}:meta", mapping={"opts.maxLenEvents": 10000})
        before = contents(raw)
        run(changing.hold_back(Q, 5000))
        assert changes(before, contents(raw)) == {f"{Q}:limiter": EVERYTHING}
        assert 4000 < raw.pttl(f"{Q}:limiter") <= 5000
        assert run(changing.end_hold(Q))
        assert contents(raw) == before
        assert not run(changing.end_hold(Q))

    def test_on_a_full_server(self, own_server: redis.Redis) -> None:
        fill(own_server)
        run = Runner(own_server)
        run(changing.set_limits(Q, set={"concurrency": 3}))
        run(changing.hold_back(Q, 5000))
        assert own_server.hget(f"{Q}:meta", "concurrency") == "3"
        assert run(changing.end_hold(Q))

    def test_looking_at_the_window(self, run: Runner, raw: redis.Redis) -> None:
        assert run(reading.rate_window(Q)) == reading.RateWindow(0, None)
        raw.set(f"{Q}:limiter", 3)
        assert run(reading.rate_window(Q)) == reading.RateWindow(3, None)
        raw.pexpire(f"{Q}:limiter", 5000)
        window = run(reading.rate_window(Q))
        assert window.count == 3
        assert 4000 < window.left_ms <= 5000


class TestAJobThatAsksForALimit:
    def hold(self, run: Runner, ms: int = 5000, **more: Any) -> Any:
        return end(run, finish("j", kind="wait", hold_ms=ms), fetch=fetch(2, "t:2"), **more)

    def test_it_waits_and_nobody_takes_it(self, run: Runner, raw: redis.Redis, seed: Seed) -> None:
        raw.hset(f"{Q}:meta", mapping={"max": 100, "duration": 1000})
        active(raw, seed, atm=2)
        seed.job("other")
        reply = self.hold(run)
        assert reply.codes == (0,)
        assert (reply.jobs, 4000 < reply.limited_ms <= 5000) == ((), True)
        assert raw.lrange(f"{Q}:wait", 0, -1) == ["other", "j"]  # the next to be taken
        assert (raw.get(f"{Q}:limiter"), raw.hget(f"{Q}:j", "atm")) == (EVERYTHING, "2")
        assert take(run, token="t:3").limited_ms is not None
        raw.delete(f"{Q}:limiter")
        assert [job.id for job in take(run, 2, token="t:4").jobs] == ["j", "other"]

    def test_who_asked_takes_nothing_although_nobody_limits_a_rate(
        self, run: Runner, raw: redis.Redis, seed: Seed
    ) -> None:
        active(raw, seed)
        seed.job("other")
        reply = self.hold(run)
        assert (reply.jobs, reply.limited_ms is not None) == ((), True)
        # Everybody else does, as with BullMQ.
        assert [job.id for job in take(run, 2, "t:3").jobs] == ["j", "other"]

    def test_without_a_fetch_it_is_told_as_well(
        self, run: Runner, raw: redis.Redis, seed: Seed
    ) -> None:
        active(raw, seed)
        assert end(run, finish("j", kind="wait", hold_ms=5000)).limited_ms is not None

    def test_a_prioritised_one_is_the_first_of_its_priority(
        self, run: Runner, raw: redis.Redis, seed: Seed
    ) -> None:
        active(raw, seed, priority=3)
        self.hold(run)
        assert raw.zscore(f"{Q}:prioritized", "j") == 3 * 2**32

    def test_the_end_of_another_job_is_no_less_an_end(
        self, run: Runner, raw: redis.Redis, seed: Seed
    ) -> None:
        active(raw, seed)
        active(raw, seed, "k")
        reply = end(run, finish("j", kind="wait", hold_ms=5000), finish("k"))
        assert reply.codes == (0, 0)
        assert raw.zscore(f"{Q}:completed", "k")

    def test_sent_again_it_says_the_same(self, run: Runner, raw: redis.Redis, seed: Seed) -> None:
        active(raw, seed)
        record = CallRecord("w", 0, 1)
        first = self.hold(run, record=record)
        before = contents(raw)
        assert self.hold(run, record=record) == first
        assert contents(raw) == before

    def test_on_a_full_server(self, own_server: redis.Redis) -> None:
        run, seed = Runner(own_server), Seed(own_server)
        active(own_server, seed)
        fill(own_server)
        assert self.hold(run).codes == (0,)
        assert own_server.get(f"{Q}:limiter") == EVERYTHING

    def test_one_whose_lock_is_lost_asks_in_vain(
        self, run: Runner, raw: redis.Redis, seed: Seed
    ) -> None:
        active(raw, seed)
        raw.set(f"{Q}:j:lock", "another's")
        assert self.hold(run).codes == (-6,)
        assert not raw.exists(f"{Q}:limiter")


@pytest.mark.parametrize(
    ("limits", "more"),
    [
        ({}, {}),
        ({"concurrency": 5}, {"llen": 2}),
        ({"max": 5, "duration": 1000}, {"get": 1, "incrby": 1, "pexpire": 1}),
    ],
)
def test_a_tick_asks_nothing_about_limits_that_are_not_there(
    run: Runner, raw: redis.Redis, seed: Seed, limits: dict[str, int], more: dict[str, int]
) -> None:
    """What a fetch with limits costs beyond one without, and that without there is nothing."""

    def commands(limits: dict[str, int]) -> dict[str, int]:
        raw.delete(f"{Q}:meta", f"{Q}:wait", f"{Q}:active")
        meta: dict[Any, Any] = {"opts.maxLenEvents": 10000, **limits}
        raw.hset(f"{Q}:meta", mapping=meta)
        for id in ("a", "b", "c"):
            seed.job(id)
        active(raw, seed)
        raw.config_resetstat()
        run(tick(Q, now=NOW, finishes=[finish("j")], fetch=fetch(1, "t:2")))
        stats: dict[str, Any] = raw.info("commandstats")
        raw.delete(f"{Q}:limiter", f"{Q}:completed")
        return {name.removeprefix("cmdstat_"): each["calls"] for name, each in stats.items()}

    with_limits, plain = commands(limits), commands({})
    assert "pttl" not in plain
    assert not {"incrby", "pexpire"} & plain.keys()
    assert {
        name: count - plain.get(name, 0)
        for name, count in with_limits.items()
        if count != plain.get(name, 0)
    } == more
