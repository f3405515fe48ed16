"""The point `removing`: plugins keep jobs that somebody wants to remove, and say why."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import redis
from tests.lua.conftest import fill
from tests.lua.database import contents
from tests.lua.running import Runner
from tests.lua.seeding import NOW, OTHER, Q, Seed

from toril.errors import JobLocked, Reject
from toril.protocol.removing import clean, drain, obliterate
from toril.protocol.trees import remove_job
from toril.removals import KeptJob
from toril_lua import Chunk, compose, compose_plugin_script

KEEP = "if string.find(ctx.id, '^k') then ctx.keep('it begins with k') end"


def plugin(source: str = KEEP, name: str = "p", **more: Any) -> Chunk:
    return Chunk(name, "removing", source, **more)


@pytest.fixture
def run(raw: redis.Redis) -> Runner:
    return Runner(raw, (plugin(),))


def remove(run: Runner, id: str, *, children: bool = True) -> Any:
    return run(remove_job(Q, id, with_children=children, now=NOW))


def rejected(run: Runner, operation: Any) -> tuple[KeptJob, ...]:
    with pytest.raises(Reject) as caught:
        run(operation)
    return caught.value.kept


def test_what_it_gets(raw: redis.Redis, seed: Seed) -> None:
    source = """ctx.report({id = ctx.id, key = ctx.key, q = ctx.q, now = ctx.now,
        outcome = ctx.outcome or 'nil', cause = ctx.cause, plugins = ctx.plugins,
        field = ctx.meta('a.field') or 'nil', own = ctx.own('x')})"""
    run = Runner(raw, (plugin(source, meta=("a.field",)),))
    raw.hset(f"{Q}:meta", mapping={"a.field": "stored", "paused": 1})
    parent = seed.job("top", "completed")
    seed.job("c", "wait", queue=OTHER, parent=parent)
    remove(run, "top")
    seed.job("f", "failed")
    run(clean(Q, "failed", NOW, now=NOW))
    seed.job("w", "wait")
    run(drain(Q, delayed=False, now=NOW))
    seed.job("d", "delayed")
    run(obliterate(Q, force=False, now=NOW))
    told: list[Any] = [report.value for report in run.reports]
    assert told[0] == {
        "id": "top", "key": f"{Q}:top", "q": Q, "now": NOW, "outcome": "completed",
        "cause": "operator", "plugins": ",", "field": "stored", "own": f"{Q}:toril:p:x",
    }  # fmt: skip
    short = [(each["id"], each["q"], each["outcome"], each["cause"]) for each in told]
    assert short == [
        ("top", Q, "completed", "operator"),
        ("c", OTHER, "nil", "parent"),
        ("f", Q, "failed", "clean"),
        ("w", Q, "nil", "drain"),
        ("d", Q, "nil", "obliterate"),
        ("d", Q, "nil", "obliterate"),  # at the look, and before it goes
    ]
    assert told[1]["field"] == "nil"


class TestRemove:
    @pytest.mark.parametrize("place", ["wait", "completed", "delayed", None])
    def test_a_kept_job_stays(
        self, run: Runner, seed: Seed, raw: redis.Redis, place: str | None
    ) -> None:
        seed.job("k", place)
        before = contents(raw)
        assert rejected(run, remove_job(Q, "k", with_children=True, now=NOW)) == (
            KeptJob("mail", "k", "p", "it begins with k"),
        )
        assert contents(raw) == before

    def test_a_tree_with_a_kept_job_stays_whole(
        self, run: Runner, seed: Seed, raw: redis.Redis
    ) -> None:
        top = seed.job("top", "waiting-children")
        middle = seed.job("middle", "waiting-children", parent=top)
        seed.job("free", parent=top)
        seed.job("k", "completed", parent=middle, queue=OTHER)
        raw.hset(f"{middle}:processed", f"{OTHER}:k", "1")
        raw.srem(f"{middle}:dependencies", f"{OTHER}:k")
        before = contents(raw)
        kept = rejected(run, remove_job(Q, "top", with_children=True, now=NOW))
        assert [(each.queue, each.id) for each in kept] == [("other", "k")]
        assert contents(raw) == before

    def test_without_its_children_they_are_not_asked_about(self, run: Runner, seed: Seed) -> None:
        top = seed.job("top", "waiting-children")
        seed.job("k", parent=top)
        assert remove(run, "top", children=False)

    def test_a_lock_counts_first(self, run: Runner, seed: Seed, raw: redis.Redis) -> None:
        raw.set(seed.job("k", "active") + ":lock", "t")
        with pytest.raises(JobLocked):
            remove(run, "k")

    @pytest.mark.parametrize("kept", ["k-open", "k-done", "k-far"])
    def test_a_large_tree_with_a_kept_job_stays_whole(
        self, run: Runner, seed: Seed, raw: redis.Redis, kept: str
    ) -> None:
        top = seed.job("top", "waiting-children")
        for n in range(250):
            seed.job(f"c{n}", parent=top)
        done = seed.job("done", "completed", parent=top)
        raw.srem(f"{top}:dependencies", done)
        raw.hset(f"{top}:processed", done, "1")
        if kept == "k-open":
            seed.job("k", parent=top)
        elif kept == "k-done":
            raw.hset(f"{top}:processed", seed.job("k", "completed"), "1")
        else:
            raw.hset(f"{done}:failed", seed.job("k", "failed"), "why")
        before = contents(raw)
        (found,) = rejected(run, remove_job(Q, "top", with_children=True, now=NOW))
        assert found.id == "k"
        assert contents(raw) == before

    def test_a_large_tree_that_nobody_keeps_goes(
        self, run: Runner, seed: Seed, raw: redis.Redis
    ) -> None:
        top = seed.job("top", "waiting-children")
        for n in range(250):
            seed.job(f"c{n}", parent=top)
        assert remove(run, "top")
        assert not list(raw.scan_iter(f"{Q}:c*"))
        assert not raw.exists(top)


class TestClean:
    def test_it_passes_over_kept_jobs(self, run: Runner, seed: Seed, raw: redis.Redis) -> None:
        for id in ("a", "k1", "b", "k2"):
            seed.job(id, "failed")
        cleaned = run(clean(Q, "failed", NOW, now=NOW))
        assert cleaned == ["a", "b"]
        assert [each.id for each in cleaned.kept] == ["k1", "k2"]
        assert cleaned.kept_count == 2
        assert raw.zrange(f"{Q}:failed", 0, -1) == ["k1", "k2"]

    def test_many_of_them_end_it_all_the_same(self, run: Runner, seed: Seed) -> None:
        for n in range(1200):
            seed.job(f"k{n:04}", "failed")
        seed.job("z", "failed")
        cleaned = run(clean(Q, "failed", NOW, limit=1, now=NOW))
        assert cleaned == ["z"]
        assert (cleaned.kept_count, len(cleaned.kept)) == (1200, 1000)


class TestDrain:
    def test_it_passes_over_kept_jobs(self, run: Runner, seed: Seed, raw: redis.Redis) -> None:
        for id in ("a", "k", "b"):
            seed.job(id)
        drained = run(drain(Q, delayed=False, now=NOW))
        assert drained == ["a", "b"]
        assert [each.id for each in drained.kept] == ["k"]
        assert raw.lrange(f"{Q}:wait", 0, -1) == ["k"]

    def test_a_kept_parent_does_not_go_with_its_last_child(
        self, run: Runner, seed: Seed, raw: redis.Redis
    ) -> None:
        top = seed.job("k", "waiting-children")
        middle = seed.job("middle", "waiting-children", parent=top)
        seed.job("one", parent=middle)
        seed.job("two", parent=middle)
        drained = run(drain(Q, delayed=False, now=NOW))
        assert drained == ["one"]
        assert [each.id for each in drained.kept] == ["k"]
        assert raw.smembers(f"{middle}:dependencies") == {f"{Q}:two"}


class TestObliterate:
    def test_nothing_goes_if_one_is_kept(self, run: Runner, seed: Seed, raw: redis.Redis) -> None:
        for n in range(700):
            seed.job(f"a{n}", "completed")
        seed.job("k1", "completed")
        seed.job("k2", "waiting-children")
        before = contents(raw)
        kept = rejected(run, obliterate(Q, force=True, now=NOW))
        assert {each.id for each in kept} <= {"k1", "k2"}
        assert contents(raw) == before

    def test_one_that_comes_after_the_look_stays(
        self, run: Runner, seed: Seed, raw: redis.Redis
    ) -> None:
        seed.job("a", "completed")

        def late() -> Iterator[Any]:
            procedure = obliterate(Q, force=True, now=NOW)
            request = next(procedure)
            while True:
                if getattr(request, "script", "") == "pause":
                    seed.job("k", "completed")
                try:
                    request = procedure.send((yield request))
                except StopIteration:
                    return

        assert [each.id for each in rejected(run, late())] == ["k"]
        assert raw.exists(f"{Q}:k")


def test_a_chunk_that_breaks_keeps_the_job(raw: redis.Redis, seed: Seed) -> None:
    run = Runner(raw, (plugin("error('oh')"), plugin("ctx.keep('mine')", "q")))
    seed.job("a", "completed")
    kept = rejected(run, remove_job(Q, "a", with_children=True, now=NOW))
    assert {(each.plugin, each.reason) for each in kept} == {("p", "its Lua broke"), ("q", "mine")}
    assert [(error.plugin, error.point) for error in run.chunk_errors] == [("p", "removing")]


def test_reasons_are_bounded(raw: redis.Redis, seed: Seed) -> None:
    run = Runner(raw, (plugin("for n = 1, 100 do ctx.keep(string.rep('x', 1000)) end"),))
    for id in ("a", "b"):
        seed.job(id, "completed")
    cleaned = run(clean(Q, "completed", NOW, now=NOW))
    assert [len(each.reason) for each in cleaned.kept] == [500] * 40
    assert cleaned.kept_count == 2


def test_on_a_full_server(own_server: redis.Redis) -> None:
    seed, run = Seed(own_server), Runner(own_server, (plugin(),))
    seed.job("a", "completed")
    seed.job("k", "completed")
    fill(own_server)
    assert run(clean(Q, "completed", NOW, now=NOW)) == ["a"]


def test_the_plugins_of_the_process_are_known() -> None:
    chunk = plugin("return")
    assert "',a,b,'" in compose("clean", (chunk,), ("a", "b")).text
    assert compose("clean", (), ("a", "b")) == compose("clean")
    assert "',a,'" in compose_plugin_script("return", (), "p", "s", ("a",)).text
