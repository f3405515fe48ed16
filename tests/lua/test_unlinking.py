"""Taking children off their parents, and removing those that have not ended."""

from __future__ import annotations

import pytest
import redis
from tests.lua.conftest import fill
from tests.lua.database import changes, contents, events
from tests.lua.running import Runner
from tests.lua.seeding import NOW, OTHER, Q, Seed

from toril.connection.call import Procedure
from toril.errors import JobNotFound, ParentError
from toril.job_events import JobRemoved
from toril.protocol.effects import REMOVED
from toril.protocol.record import CallRecord
from toril.protocol.trees import remove_unprocessed, unlink, unprocessed_children
from toril.removals import Removals
from toril_lua.catalogue import Chunk

RECORD = CallRecord("p", 0, 7)
P = f"{OTHER}:p"


class TestUnlink:
    def test_the_last_open_child(self, run: Runner, seed: Seed, raw: redis.Redis) -> None:
        # As BullMQ does it: with no regard to priority and delay.
        seed.job("p", "waiting-children", queue=OTHER, priority=3, delay=500)
        key = seed.job("c", parent=P, policy="fpof")
        before = contents(raw)
        assert run(unlink(Q, "c"))
        assert changes(before, contents(raw)) == {
            f"{P}:dependencies": None,
            f"{OTHER}:waiting-children": None,
            f"{OTHER}:wait": ["p"],
            f"{OTHER}:marker": {"0": 0},
            f"{OTHER}:events": [{"event": "waiting", "jobId": "p", "prev": "waiting-children"}],
            key: {
                name: value
                for name, value in before[key].items()
                if name not in {"parent", "parentKey"}
            },
        }

    def test_one_of_several(self, run: Runner, seed: Seed, raw: redis.Redis) -> None:
        seed.job("p", "waiting-children", queue=OTHER)
        seed.job("c", parent=P)
        other = seed.job("other", parent=P)
        assert run(unlink(Q, "c"))
        assert raw.smembers(f"{P}:dependencies") == {other}
        assert raw.zscore(f"{OTHER}:waiting-children", "p") == NOW
        assert events(raw, OTHER) == []

    def test_of_a_parent_that_runs(self, run: Runner, seed: Seed, raw: redis.Redis) -> None:
        seed.job("p", "active", queue=OTHER)
        seed.job("c", parent=P)
        assert run(unlink(Q, "c"))
        assert raw.lrange(f"{OTHER}:active", 0, -1) == ["p"]
        assert not raw.exists(f"{OTHER}:wait")

    def test_one_that_has_ended(self, run: Runner, seed: Seed, raw: redis.Redis) -> None:
        seed.job("p", "waiting-children", queue=OTHER)
        seed.job("c", "completed", parent=P)
        raw.delete(f"{P}:dependencies")
        before = contents(raw)
        assert not run(unlink(Q, "c"))
        assert changes(before, contents(raw)) == {}

    def test_refusals(self, run: Runner, seed: Seed, raw: redis.Redis) -> None:
        seed.job("alone")
        seed.job("orphan", parent=P)
        before = contents(raw)
        for gone in ("nobody", "wait"):
            with pytest.raises(JobNotFound):
                run(unlink(Q, gone))
        for free in ("alone", "orphan"):
            with pytest.raises(ParentError, match=f"job '{free}' of queue 'mail' has no living"):
                run(unlink(Q, free))
        assert changes(before, contents(raw)) == {}

    def test_sent_again(self, run: Runner, seed: Seed, raw: redis.Redis) -> None:
        seed.job("p", "waiting-children", queue=OTHER)
        seed.job("c", parent=P)
        call = unlink(Q, "c", record=RECORD)
        assert run(call)
        before = contents(raw)
        assert run(call)
        assert changes(before, contents(raw)) == {}

    def test_on_a_full_server(self, own_server: redis.Redis) -> None:
        seed, run = Seed(own_server), Runner(own_server)
        seed.job("p", "waiting-children", queue=OTHER)
        seed.job("c", parent=P)
        fill(own_server)
        assert run(unlink(Q, "c", record=RECORD))
        assert own_server.lrange(f"{OTHER}:wait", 0, -1) == ["p"]


def prune(wants: frozenset[str] = frozenset()) -> Procedure[Removals]:
    """Remove the unprocessed children of `p`."""
    children = yield from unprocessed_children(OTHER, "p")
    return (yield from remove_unprocessed(OTHER, children, now=NOW, wants=wants))


class TestRemoveUnprocessed:
    def test_only_what_has_not_begun_goes(self, run: Runner, seed: Seed, raw: redis.Redis) -> None:
        seed.job("p", "waiting-children", queue=OTHER)
        seed.job("waits", parent=P)
        seed.job("late", "delayed", parent=P)
        left = {
            seed.job("fails", "failed", parent=P),
            seed.job("runs", "active", parent=P),
        }
        raw.set(f"{Q}:runs:lock", "t:1")
        done = seed.job("done", "completed")
        raw.hset(f"{P}:processed", done, "1")
        gone: Removals = run(prune(frozenset({REMOVED})))
        assert sorted(gone) == ["late", "waits"]
        assert raw.smembers(f"{P}:dependencies") == left
        assert raw.exists(done) == 1
        assert raw.zscore(f"{OTHER}:waiting-children", "p") == NOW
        assert {
            (event.job.id, event.cause) for event in run.events if isinstance(event, JobRemoved)
        } == {("late", "operator"), ("waits", "operator")}
        assert [event["event"] for event in events(raw, Q)] == ["removed", "removed"]

    def test_without_any_left_the_parent_runs(
        self, run: Runner, seed: Seed, raw: redis.Redis
    ) -> None:
        seed.job("p", "waiting-children", queue=OTHER)
        seed.job("c", parent=P)
        assert run(prune()) == ["c"]
        assert raw.lrange(f"{OTHER}:wait", 0, -1) == ["p"]
        assert run(prune()) == []

    def test_children_of_children_go_along(self, run: Runner, seed: Seed, raw: redis.Redis) -> None:
        seed.job("p", "waiting-children", queue=OTHER)
        middle = seed.job("middle", "waiting-children", parent=P)
        for name, state in (("open", "wait"), ("bad", "failed"), ("runs", "active")):
            seed.job(name, state, parent=middle)
        raw.set(f"{Q}:runs:lock", "t:1")
        good = seed.job("good", "completed")
        raw.hset(f"{middle}:processed", good, "1")
        assert run(prune()) == ["middle"]
        # BullMQ leaves the same ones.
        assert set(raw.keys(f"{Q}:*")) - {f"{Q}:events", f"{Q}:meta", f"{Q}:marker"} == {
            *(f"{Q}:{name}" for name in ("bad", "runs", "good", "failed", "completed", "active")),
            f"{Q}:runs:lock",
        }
        assert raw.lrange(f"{OTHER}:wait", 0, -1) == ["p"]

    @pytest.mark.parametrize("below", [49, 50, 450])
    def test_many(self, run: Runner, seed: Seed, raw: redis.Redis, below: int) -> None:
        seed.job("p", "waiting-children", queue=OTHER)
        middle = seed.job("middle", "waiting-children", parent=P)
        for n in range(below):
            seed.job(f"m{n}", parent=middle)
        for n in range(150):
            seed.job(f"c{n}", parent=P)
        runs = seed.job("runs", "active", parent=P)
        raw.set(f"{runs}:lock", "t:1")
        gone: Removals = run(prune())
        assert sorted(gone) == sorted(["middle", *(f"c{n}" for n in range(150))])
        assert raw.smembers(f"{P}:dependencies") == {runs}
        assert not raw.exists(middle, f"{middle}:dependencies", f"{Q}:wait")
        assert raw.lrange(f"{Q}:active", 0, -1) == ["runs"]

    def test_what_a_plugin_keeps(self, raw: redis.Redis, seed: Seed) -> None:
        keep = "if string.find(ctx.id, 'held') then ctx.keep('held') end"
        run = Runner(raw, (Chunk("keeper", "removing", keep),))
        seed.job("p", "waiting-children", queue=OTHER)
        held = seed.job("held", parent=P)
        middle = seed.job("middle", "waiting-children", parent=P)
        seed.job("held-below", parent=middle)
        seed.job("free", parent=P)
        gone: Removals = run(prune())
        assert gone == ["free"]
        assert {(one.id, one.plugin) for one in gone.kept} == {
            ("held", "keeper"),
            ("held-below", "keeper"),
        }
        assert raw.smembers(f"{P}:dependencies") == {held, middle}

    def test_on_a_full_server(self, own_server: redis.Redis) -> None:
        seed, run = Seed(own_server), Runner(own_server)
        seed.job("p", "waiting-children", queue=OTHER)
        seed.job("c", parent=P)
        fill(own_server)
        assert run(prune()) == ["c"]
        assert own_server.lrange(f"{OTHER}:wait", 0, -1) == ["p"]
