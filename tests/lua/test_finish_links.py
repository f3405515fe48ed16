"""`tick`: what the end of a job does to its parent and to its deduplication window."""

from __future__ import annotations

import json
from typing import Any

import pytest
import redis
from tests.lua.database import contents
from tests.lua.making import active, codes, event_names, finish
from tests.lua.running import Runner
from tests.lua.seeding import NOW, OTHER, Q, Seed

from toril.protocol import finishing

LATER = NOW + 5


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
        for queue in (OTHER, Q):  # where a worker, or else the rescue, finds it
            noted = raw.zscore(f"{queue}:toril:deferred", parent)
            assert noted == (LATER if decided else None)
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
    def test_ignore_and_remove_release_when_nothing_is_open(
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
