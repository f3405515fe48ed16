"""The seam: what chunks and plugins' own scripts get, and what they may do."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from unittest.mock import ANY

import pytest
import redis
from tests.lua.database import contents
from tests.lua.making import end, fetch, finish, node, take
from tests.lua.running import Runner
from tests.lua.seeding import NOW, OTHER, Q, Seed

from toril.job_events import JobRemoved
from toril.protocol.adding import add_jobs
from toril.protocol.effects import ChunkError, Effects, Report
from toril.protocol.plugin_call import plugin_call
from toril.protocol.record import CallRecord
from toril.types import Json
from toril_lua import Chunk, compose_plugin_script

WANTS = frozenset({"toril_jobs_removed"})


class Plugins:
    """Runs calls with chunks."""

    def __init__(self, client: redis.Redis, *chunks: Chunk) -> None:
        self.run = Runner(client, chunks)
        self.run(add_jobs([node(name) for name in ("a", "b", "c")], now=NOW))
        take(self.run, 3)

    @property
    def reported(self) -> list[Json]:
        return [report.value for report in self.run.reports]


def chunk(source: str, point: str = "finished", plugin: str = "p", **more: Any) -> Chunk:
    return Chunk(plugin, point, source, **more)


def own(
    client: redis.Redis, source: str, args: Json = None, *chunks: Chunk, wants: Any = frozenset()
) -> Effects[Json]:
    """Run a plugin's own script."""
    script = compose_plugin_script(source, chunks, "p", "s")
    call = plugin_call(Q, "p", "s", args, now=NOW + 9, wants=wants)
    assert call.script == script.name
    effects: Effects[Json] = call.parse(Runner(client).raw("EVAL", script.text, 1, Q, *call.args))
    return effects


class TestFinished:
    def test_what_it_gets(self, raw: redis.Redis, seed: Seed) -> None:
        source = """ctx.report({id = ctx.id, key = ctx.key, q = ctx.q, now = ctx.now,
            outcome = ctx.outcome, cause = ctx.cause, final = ctx.final, name = ctx.name,
            finished_on = ctx.finished_on, previous = ctx.previous or 'nil', plan = ctx.plan,
            parent_key = ctx.parent_key or 'nil', blocks = ctx.blocks_parent,
            undecided = ctx.undecided, budget = ctx.budget, own = ctx.own('x')})"""
        plugins = Plugins(raw, chunk(source))
        parent = seed.job("p", "waiting-children", queue=OTHER)
        seed.job("b", None, parent=parent)
        raw.hset(f"{Q}:b", "finishedOn", 77)
        end(
            plugins.run,
            finish("a", plans={"p": {"keep": [1, 2]}, "q": 3}),
            finish("b", kind="failed", value="x", cause="deferred", undecided=True),
        )
        first, second = plugins.reported
        assert first == {
            "id": "a",
            "key": f"{Q}:a",
            "q": Q,
            "now": NOW + 5,
            "outcome": "completed",
            "cause": "processor",
            "final": True,
            "name": "send",
            "finished_on": NOW + 5,
            "previous": "nil",
            "plan": {"keep": [1, 2]},
            "parent_key": "nil",
            "blocks": False,
            "undecided": False,
            "budget": 100,
            "own": f"{Q}:toril:p:x",
        }
        assert isinstance(second, dict)
        assert second["parent_key"] == parent
        assert second["blocks"] is True
        assert (second["previous"], second["cause"]) == (77, "deferred")
        assert second["undecided"] is True
        assert "plan" not in second

    def test_only_jobs_that_ended_and_after_the_batch(self, raw: redis.Redis) -> None:
        plugins = Plugins(
            raw, chunk("ctx.report({ctx.id, redis.call('ZCARD', ctx.q .. ':completed')})")
        )
        raw.delete(f"{Q}:b:lock")
        end(plugins.run, finish("a"), finish("b"), finish("c"))
        assert plugins.reported == [["a", 2], ["c", 2]]
        end(plugins.run, finish("b", kind="retry", value="x"))
        assert len(plugins.reported) == 2

    def test_batch_is_called_once(self, raw: redis.Redis) -> None:
        source = """local ids = {}
            for i, job in ipairs(ctx.jobs) do ids[i] = job.id .. job.outcome end
            ctx.report({ids, ctx.id or 'none'})"""
        plugins = Plugins(raw, chunk(source, "finished_batch"))
        end(plugins.run, finish("a", plans={"p": 1}), finish("b", kind="failed", value="x"))
        assert plugins.reported == [[["acompleted", "bfailed"], "none"]]
        end(plugins.run, finish("c", kind="wait"))
        assert len(plugins.reported) == 1

    def test_batch_gets_each_plugin_s_own_plan(self, raw: redis.Redis) -> None:
        source = "ctx.report({ctx.jobs[1].plan, ctx.jobs[2].plan or 'none', ctx.jobs[2].undecided})"
        plugins = Plugins(
            raw,
            chunk(source, "finished_batch", "p"),
            chunk(source, "finished_batch", "q"),
        )
        end(
            plugins.run,
            finish("a", plans={"p": "of p", "q": "of q"}),
            finish("b", undecided=True),
        )
        assert plugins.reported == [["of p", "none", True], ["of q", "none", True]]

    def test_a_batch_is_counted_without_a_list(self, raw: redis.Redis) -> None:
        source = "ctx.report({ctx.ended, ctx.planned(), #ctx.jobs, ctx.jobs == ctx.jobs})"
        plugins = Plugins(raw, *(chunk(source, "finished_batch", plugin) for plugin in ("p", "q")))
        end(plugins.run, finish("a", plans={"p": 1}), finish("b", kind="failed", value="x"))
        of_p, of_q = plugins.reported
        assert of_p == [{"completed": 1, "failed": 1}, True, 2, True]
        assert of_q == [{"completed": 1, "failed": 1}, False, 2, True]
        end(plugins.run, finish("c", undecided=True))
        assert plugins.reported[2:] == 2 * [[{"completed": 1, "failed": 0}, True, 1, True]]

    def test_a_chunk_that_has_nothing_to_do_without_fields(self, raw: redis.Redis) -> None:
        told = "ctx.report({ctx.meta('toril.y') or 'none', ctx.meta('toril.z') or 'none'})"
        more: dict[str, Any] = {"meta": ("toril.z",), "only_with": ("toril.x", "toril.y")}
        plugins = Plugins(raw, chunk(told, "finished_batch", **more))
        raw.hset(f"{Q}:meta", "toril.z", "3")
        end(plugins.run, finish("a"))
        assert plugins.reported == []
        end(plugins.run, finish("b", plans={"p": False}))
        assert plugins.reported == [["none", "3"]]
        raw.hset(f"{Q}:meta", "toril.y", "2")
        end(plugins.run, finish("c", plans={"q": 1}))
        assert plugins.reported == [["none", "3"], ["2", "3"]]

    def test_a_look_says_whether_there_is_something_to_do(self, raw: redis.Redis) -> None:
        look = """if ctx.ended.completed > 1 then error('broken') end
            ctx.seen.found = {ctx.q, ctx.now - 5, ctx.fields['toril.x'], ctx.ended}
            return ctx.ended.failed > 0"""
        source = "ctx.report(ctx.seen.found or 'nothing')"
        more: dict[str, Any] = {"only_with": ("toril.x",), "look": look}
        plugins = Plugins(raw, chunk(source, "finished_batch", **more))
        end(plugins.run, finish("a", kind="failed", value="x"))
        assert plugins.reported == []
        raw.hset(f"{Q}:meta", "toril.x", "1")
        plugins.run(add_jobs([node(name) for name in ("d", "e", "f", "g")], now=NOW))
        take(plugins.run, 4, "t:2")
        end(plugins.run, finish("d", "t:2"))
        assert plugins.reported == []
        end(plugins.run, finish("e", "t:2", kind="failed", value="x"))
        assert plugins.reported == [[Q, NOW, "1", {"completed": 0, "failed": 1}]]
        # One that breaks keeps no chunk from its work.
        end(plugins.run, finish("f", "t:2"), finish("g", "t:2"))
        assert plugins.reported[1:] == ["nothing"]

    def test_a_look_sees_the_jobs_and_what_was_planned(self, raw: redis.Redis, seed: Seed) -> None:
        look = """ctx.seen.found = {ctx.planned, ctx.fields['toril.x'] or 'none',
            {ctx.list('completed')}, {ctx.list('failed')}}
            return false"""
        awake = chunk("ctx.report(ctx.seen.found)", "finished_batch", "q")
        look_of = {
            p: chunk("", "finished_batch", p, only_with=("toril.x",), look=look) for p in "pq"
        }
        plugins = Plugins(raw, look_of["p"], look_of["q"], awake)
        raw.hset(f"{Q}:b", "parentKey", f"{OTHER}:p")
        one = finish("a", kind="failed", value="x")
        end(plugins.run, one, finish("b", plans={"q": False}))
        completed = [["b"], ["send"], [False], [f"{OTHER}:p"]]
        failed = [["a"], ["send"], [], []]
        assert plugins.reported == [[True, "none", completed, failed]]
        # None is asked where somebody could not plan: the chunk is called.
        asleep = chunk("ctx.report('awake')", "finished_batch", only_with=("toril.x",), look=look)
        plugins = Plugins(raw, asleep)
        end(plugins.run, finish("c", undecided=True))
        assert plugins.reported == ["awake"]

    def test_a_look_lets_go_what_it_knows(self, raw: redis.Redis, seed: Seed) -> None:
        look = """local ids = redis.call('LRANGE', ctx.q .. ':x', 0, -1)
            return not ctx.remove_known(ctx.fields['toril.x'], ids, 'r', {'gone', ids})"""
        own_chunks = [
            chunk("ctx.report('awake')", "finished_batch", only_with=("toril.x",), look=look),
            chunk("ctx.report('told')", "removed"),
        ]
        raw.hset(f"{Q}:meta", "toril.x", "failed")
        for n in range(103):
            seed.job(f"j{n}", "failed", score=NOW)
        raw.rpush(f"{Q}:j0:logs", "a line")
        plugins = Plugins(raw, *own_chunks)

        def ends(job: str, *ids: str, run: Runner = plugins.run, **more: Any) -> list[Json]:
            run.reports.clear()
            raw.delete(f"{Q}:x")
            raw.rpush(f"{Q}:x", *ids)
            assert end(run, finish(job), **more).codes == (0,)
            return [report.value for report in run.reports]

        assert ends("a", "j0") == [["gone", ["j0"]]]
        assert raw.keys(f"{Q}:j0*") == []
        assert contents(raw)[f"{Q}:events"][-1] == {
            "event": "removed",
            "jobId": "j0",
            "prev": "failed",
            "rule": "r",
        }
        assert ends("b", *(f"j{n}" for n in range(1, 101))) == [["gone", ANY]]
        assert raw.zrange(f"{Q}:failed", 0, -1) == ["j101", "j102"]
        assert [event["event"] for event in contents(raw)[f"{Q}:events"]].count("removed") == 1

        # All or none: else the chunk sees to it.
        raw.set(f"{Q}:j101:lock", "somebody")
        assert ends("c", "j101", "j102") == ["awake"]
        plugins.run(add_jobs([node(name) for name in ("d", "e", "f", "g")], now=NOW))
        take(plugins.run, 4)
        assert ends("d", *(f"j{n}" for n in range(101))) == ["awake"]  # too many
        assert ends("e", "j102", wants=WANTS) == ["awake"]
        heard = Runner(raw, (*own_chunks, chunk("ctx.report('heard')", "removed", "q")))
        assert ends("f", "j102", run=heard) == ["awake"]
        raw.hset(f"{Q}:meta", "toril.x", "wait")
        assert ends("g", "j102") == ["awake"]  # no place of finished jobs
        assert raw.zrange(f"{Q}:failed", 0, -1) == ["j101", "j102"]

    def test_it_is_asleep_where_another_is_awake(self, raw: redis.Redis) -> None:
        plugins = Plugins(
            raw,
            chunk("ctx.report(1)", "finished_batch", only_with=("toril.x",)),
            chunk("ctx.report(2)", "finished_batch", "q", meta=("toril.y",)),
        )
        end(plugins.run, finish("a"))
        assert plugins.reported == [2]

    def test_an_error_is_told_and_stops_nobody(self, raw: redis.Redis) -> None:
        plugins = Plugins(
            raw,
            chunk("error('broken')"),
            chunk("redis.call('NO_SUCH_COMMAND')", plugin="q"),
            chunk("a_global = 1", plugin="r"),
            chunk("ctx.report(ctx.id)", plugin="s"),
        )
        reply = end(plugins.run, finish("a"), fetch=fetch(1, "t:2"))
        assert reply.codes == (0,)
        assert [error.plugin for error in plugins.run.chunk_errors] == ["p", "q", "r"]
        assert "broken" in plugins.run.chunk_errors[0].message
        assert plugins.run.chunk_errors[0].point == "finished"
        assert plugins.run.reports == [Report("s", "a")]

    def test_errors_are_counted_up_to_a_limit(self, raw: redis.Redis) -> None:
        plugins = Plugins(raw, chunk("error('x')"))
        plugins.run(add_jobs([node(f"j{i}") for i in range(50)], now=NOW))
        jobs = take(plugins.run, 50, "t:2").jobs
        end(plugins.run, *(finish(job, "t:2") for job in jobs))
        assert len(plugins.run.chunk_errors) == 20

    def test_nothing_of_the_script_is_visible(self, raw: redis.Redis) -> None:
        names = "Q request seam finishing fetched CHUNKS CHUNK_META reports emit finished_jobs"
        source = f"""local seen = {{}}
            for name in string.gmatch('{names}', '[%w_]+') do
              local ok, value = pcall(function() return _G[name] end)
              if ok and value then seen[#seen + 1] = name end
            end
            ctx.report({{#seen, pcall(function() return Q end) and Q == nil}})"""
        plugins = Plugins(raw, chunk(source))
        end(plugins.run, finish("a"))
        assert plugins.reported[0] in ([0, False], [0, True])

    def test_a_record_keeps_what_was_told(self, raw: redis.Redis) -> None:
        plugins = Plugins(raw, chunk("ctx.report(ctx.id) error('x')"))
        for _ in range(2):
            end(plugins.run, finish("a"), record=CallRecord("w", 0, 1))
        assert plugins.reported == ["a", "a"]
        assert len(plugins.run.chunk_errors) == 2


class TestContext:
    def test_meta_reads_declared_fields_and_others(self, raw: redis.Redis) -> None:
        raw.hset(f"{Q}:meta", mapping={"toril.x": "1", "toril.y": "2"})
        source = "ctx.report({ctx.meta('toril.x'), ctx.meta('toril.y'), ctx.meta('none') == nil})"
        for point in ("finished", "finished_batch"):
            plugins = Plugins(raw, chunk(source, point, meta=("toril.x", "none")))
            end(plugins.run, finish("a"))
            assert plugins.reported == [["1", "2", True]]
            raw.delete(*(key for key in contents(raw) if key != f"{Q}:meta"))

    def test_declared_fields_cost_no_command_of_their_own(self, raw: redis.Redis) -> None:
        plugins = Plugins(raw, chunk("ctx.meta('toril.x')", meta=("toril.x",)))
        raw.config_resetstat()
        end(plugins.run, finish("a"))
        stats = raw.info("commandstats")
        assert stats["cmdstat_hmget"]["calls"] == stats["cmdstat_hgetall"]["calls"] == 1
        assert "cmdstat_hget" not in stats

    def test_set_meta(self, raw: redis.Redis) -> None:
        source = """ctx.set_meta('toril.p.x', 1790000000000) ctx.set_meta('toril.p.y', 'text')
            ctx.report({ctx.meta('toril.p.x'), ctx.meta('toril.p.y')})
            ctx.set_meta('toril.p.y', nil) ctx.report(ctx.meta('toril.p.y') == nil)"""
        plugins = Plugins(raw, chunk(source))
        end(plugins.run, finish("a"))
        assert plugins.reported == [["1790000000000", "text"], True]
        assert raw.hget(f"{Q}:meta", "toril.p.x") == "1790000000000"

    @pytest.mark.parametrize("field", ["paused", "toril.other.x", "toril.px"])
    def test_set_meta_sets_only_its_own_fields(self, raw: redis.Redis, field: str) -> None:
        plugins = Plugins(raw, chunk(f"ctx.set_meta('{field}', 1)"))
        end(plugins.run, finish("a"))
        assert len(plugins.run.chunk_errors) == 1
        assert raw.hget(f"{Q}:meta", field) is None

    def test_emit(self, raw: redis.Redis) -> None:
        plugins = Plugins(raw, chunk("ctx.emit('toril:x', {jobId = ctx.id}) ctx.emit('failed')"))
        end(plugins.run, finish("a"))
        names = [entry["event"] for entry in contents(raw)[f"{Q}:events"]]
        assert "toril:x" in names
        assert "failed" not in names
        assert len(plugins.run.chunk_errors) == 1

    def test_seen_is_a_plugin_s_own_for_the_call(self, raw: redis.Redis) -> None:
        source = "ctx.seen.n = (ctx.seen.n or 0) + 1 ctx.report(ctx.seen.n)"
        plugins = Plugins(raw, chunk(source), chunk(source, plugin="q"))
        end(plugins.run, finish("a"), finish("b"))
        assert plugins.reported == [1, 1, 2, 2]


Harm = Callable[[redis.Redis], object]
HARMS: list[tuple[Harm, str]] = [
    (lambda raw: raw.zrem(f"{Q}:completed", "b"), "gone"),
    (lambda raw: raw.zadd(f"{Q}:completed", {"b": NOW + 1}), "changed"),
    (lambda raw: raw.set(f"{Q}:b:lock", "x"), "locked"),
]


class TestRemove:
    ALL = """local done, why = ctx.remove(ctx.id, ctx.outcome, 'a rule', ctx.finished_on)
        ctx.report({done, why or ''})"""

    def test_everything_goes_and_is_told(self, raw: redis.Redis) -> None:
        plugins = Plugins(raw, chunk(self.ALL))
        raw.rpush(f"{Q}:a:logs", "line")
        raw.hset(f"{Q}:a:processed", "x", 1)
        end(plugins.run, finish("a", value='{"r":1}'), wants=WANTS)
        assert plugins.reported == [[True, ""]]
        assert not raw.keys(f"{Q}:a") + raw.keys(f"{Q}:a:*")
        assert not raw.exists(f"{Q}:completed")
        events = contents(raw)[f"{Q}:events"]
        assert events[-1] == {
            "event": "removed",
            "jobId": "a",
            "prev": "completed",
            "rule": "a rule",
        }
        (event,) = plugins.run.events
        assert isinstance(event, JobRemoved)
        assert (event.state, event.cause, event.rule, event.plugin) == (
            *("completed", "rule", "a rule", "p"),
        )
        assert (event.job.id, event.job.queue, event.job.result) == ("a", "mail", {"r": 1})

    def test_many_at_once(self, raw: redis.Redis, seed: Seed) -> None:
        parent = seed.job("p", "waiting-children", queue=OTHER)
        seed.job("child", "failed", score=NOW, parent=parent)
        for n in range(105):
            seed.job(f"j{n:03}", "failed", score=NOW + n)
        raw.set(f"{Q}:j001:lock", "somebody")
        raw.rpush(f"{Q}:j000:logs", "line")
        source = """local jobs, why = {
              {id = 'nobody', finished_on = 1}, {id = 'j104', finished_on = ctx.now},
              {id = 'child', finished_on = args}}, {}
            for n = 0, 103 do
              local id = string.format('j%03d', n)
              jobs[#jobs + 1] = {id = id, finished_on = args + n, rule = 'r' .. n}
            end
            for _, job in ipairs(ctx.remove_all('failed', jobs)) do why[job.id] = job.why end
            return {why, ctx.budget, #ctx.remove_all('failed', {})}"""
        raw.config_resetstat()
        done = own(raw, source, NOW, wants=WANTS)
        stay = {"nobody": "gone", "j104": "changed", "child": "blocked", "j001": "locked"}
        late = dict.fromkeys((f"j{n:03}" for n in range(97, 104)), "budget")
        assert done.value == [{**stay, **late}, 4, 0]
        assert len(done.events) == 96
        rules = {event.job.id: event.rule for event in done.events if isinstance(event, JobRemoved)}
        assert rules["j000"] == "r0"
        assert raw.zcard(f"{Q}:failed") == 105 + 1 - 96
        assert len(raw.keys(f"{Q}:j???")) == 9
        assert not raw.exists(f"{Q}:j000:logs")
        stats: Any = raw.info("commandstats")
        for command in ("zrem", "unlink", "zmscore"):
            assert stats[f"cmdstat_{command}"]["calls"] == 1

    def test_known_ones_go_all_or_none(self, raw: redis.Redis, seed: Seed) -> None:
        for n in range(103):
            seed.job(f"j{n}", "failed", score=NOW)
        raw.set(f"{Q}:j1:lock", "somebody")
        source = "return {ctx.remove_known('failed', args, 'r'), ctx.budget}"
        assert own(raw, source, ["j0", "j1"]).value == [False, 100]
        ids = [f"j{n}" for n in range(2, 103)]
        assert own(raw, source, ids).value == [False, 100]
        heard = chunk("ctx.report(ctx.id)", "removed", "q")
        assert own(raw, source, ["j0"], heard).value == [False, 100]
        assert own(raw, source, ["j0"], wants=WANTS).value == [False, 100]
        assert raw.zcard(f"{Q}:failed") == 103
        silent = chunk("ctx.report(ctx.id)", "removed")
        effects = own(raw, f"ctx.announce = true {source}", ["j0", *ids[:98]], silent)
        assert effects.value == [True, 1]
        assert effects.reports == ()
        assert raw.zcard(f"{Q}:failed") == 4
        assert not raw.exists(f"{Q}:j0")
        assert contents(raw)[f"{Q}:events"][0] == {
            "event": "removed",
            "jobId": "j0",
            "prev": "failed",
            "rule": "r",
        }
        assert own(raw, source, []).value == [True, 100]

    def test_what_may_not_go_is_told_without_touching_it(
        self, raw: redis.Redis, seed: Seed
    ) -> None:
        seed.job("a", "failed", score=NOW)
        seed.job("b", "failed", score=NOW)
        raw.set(f"{Q}:b:lock", "somebody")
        before = contents(raw)
        source = """local jobs = {
              {id = 'a', finished_on = args}, {id = 'b', finished_on = args}, {id = 'c'}}
            local told = {}
            for n, job in ipairs(ctx.refused('failed', jobs)) do told[n] = {job.id, job.why} end
            return {told, ctx.budget}"""
        assert own(raw, source, NOW).value == [[["b", "locked"], ["c", "gone"]], 100]
        assert contents(raw) == before

    def test_large_snapshots_are_cut(self, raw: redis.Redis, seed: Seed) -> None:
        for n in range(5):
            seed.job(f"j{n}", "failed", score=NOW, data="x" * 500_000)
        source = """local jobs = {}
            for n = 0, 4 do jobs[n + 1] = {id = 'j' .. n, finished_on = args} end
            local why = {}
            for n, job in ipairs(ctx.remove_all('failed', jobs)) do why[n] = job.why end
            return {why, ctx.budget}"""
        done = own(raw, source, NOW, wants=WANTS)
        assert done.value == [["budget", "budget"], 0]
        assert len(done.events) == 3
        assert own(raw, source, NOW).value == [["gone", "gone", "gone"], 98]

    def test_nobody_asked_no_snapshot(self, raw: redis.Redis) -> None:
        plugins = Plugins(raw, chunk(self.ALL))
        raw.config_resetstat()
        end(plugins.run, finish("a"))
        assert plugins.run.events == []
        assert raw.info("commandstats")["cmdstat_hgetall"]["calls"] == 1  # of the meta

    @pytest.mark.parametrize(("harm", "why"), HARMS)
    def test_conditions(self, raw: redis.Redis, harm: Harm, why: str) -> None:
        plugins = Plugins(raw)
        end(plugins.run, finish("b"))
        harm(raw)
        before = contents(raw)
        source = "return {ctx.remove('b', 'completed', 'r', args)}"
        assert own(raw, source, NOW + 5).value == [False, why]
        assert contents(raw) == before

    def test_a_child_that_keeps_its_parent_waiting_stays(
        self, raw: redis.Redis, seed: Seed
    ) -> None:
        plugins = Plugins(raw, chunk(self.ALL))
        parent = seed.job("p", "waiting-children", queue=OTHER)
        seed.job("a", None, parent=parent)
        end(plugins.run, finish("a", kind="failed", value="x"))
        assert plugins.reported == [[False, "blocked"]]
        assert raw.zscore(f"{Q}:failed", "a") == NOW + 5
        raw.delete(parent)
        assert own(raw, "return ctx.remove('a', 'failed', 'r', args)", NOW + 5).value is True

    def test_a_completed_child_goes_and_leaves_its_result(
        self, raw: redis.Redis, seed: Seed
    ) -> None:
        plugins = Plugins(raw, chunk(self.ALL))
        parent = seed.job("p", "waiting-children", queue=OTHER)
        seed.job("a", None, parent=parent)
        end(plugins.run, finish("a", value="7"))
        assert plugins.reported == [[True, ""]]
        assert raw.hgetall(f"{parent}:processed") == {f"{Q}:a": "7"}

    def test_a_budget_of_100_for_the_call(self, raw: redis.Redis) -> None:
        run = Plugins(raw).run
        for i in range(150):
            run(add_jobs([node(f"j{i}", data="1")], now=NOW))
            raw.lrem(f"{Q}:wait", 1, f"j{i}")
            raw.zadd(f"{Q}:completed", {f"j{i}": NOW})
        source = """local why for i = 0, 149 do
              local _, reason = ctx.remove('j' .. i, 'completed', 'r', ctx.now - 9)
              why = why or reason
            end return {why, ctx.budget}"""
        assert own(raw, source).value == ["budget", 0]
        assert raw.zcard(f"{Q}:completed") == 50

    def test_a_deduplication_window_stays(self, raw: redis.Redis) -> None:
        plugins = Plugins(raw, chunk(self.ALL))
        raw.hset(f"{Q}:a", "deid", "d")
        raw.set(f"{Q}:de:d", "a", px=9000)
        end(plugins.run, finish("a"))
        assert plugins.reported == [[True, ""]]
        assert raw.get(f"{Q}:de:d") == "a"

    def test_removed_chunks_see_the_job_before_it_goes(self, raw: redis.Redis) -> None:
        gone = """ctx.report({ctx.id, ctx.state, ctx.cause, ctx.rule, ctx.own('x'),
            redis.call('HGET', ctx.key, 'name'), ctx.remove == nil})"""
        plugins = Plugins(
            raw,
            chunk(self.ALL),
            chunk(gone, "removed", "q"),
            chunk("ctx.report(ctx.own('y'))", plugin="r"),
        )
        end(plugins.run, finish("a"))
        assert plugins.run.reports == [
            Report("q", ["a", "completed", "rule", "a rule", f"{Q}:toril:q:x", "send", True]),
            Report("p", [True, ""]),
            Report("r", f"{Q}:toril:r:y"),
        ]


class TestSaved:
    def test_only_what_was_saved(self, raw: redis.Redis, seed: Seed) -> None:
        parent = seed.job("p", "waiting-children", queue=OTHER)
        source = "ctx.report({ctx.id, ctx.key, ctx.name, ctx.parent_key or '', ctx.q})"
        run = Runner(raw, (chunk(source, "saved"), chunk("error('x')", "saved", "q")))
        run(add_jobs([node("j")], now=NOW))
        run(add_jobs([node("j"), node("k", parent=parent)], now=NOW))
        assert [report.value for report in run.reports] == [
            ["j", f"{Q}:j", "send", "", Q],
            ["k", f"{Q}:k", "send", parent, Q],
        ]
        assert [error.plugin for error in run.chunk_errors] == ["q", "q"]
        assert raw.lrange(f"{Q}:wait", 0, -1) == ["k", "j"]


class TestOwnScript:
    @pytest.mark.parametrize(
        "value",
        [None, True, 1, 1.5, NOW, -3, "ä", [], [1, "x"], {"a": [{"b": None}]}, {"n": NOW}],
    )
    def test_values_go_in_and_out(self, raw: redis.Redis, value: Json) -> None:
        found = own(raw, "return args", value).value
        # Lua has no null, and does not know an empty object from an empty list.
        assert found == ({"a": [[]]} if value == {"a": [{"b": None}]} else value)

    def test_an_error_is_told_and_what_was_done_stays(self, raw: redis.Redis) -> None:
        effects = own(raw, "redis.call('SET', ctx.own('x'), 1) ctx.report(5) error('broken')")
        assert effects.value is None
        (error,) = effects.chunk_errors
        assert (error.plugin, error.point) == ("p", "script")
        assert "broken" in error.message
        assert effects.reports == (Report("p", 5),)
        assert raw.get(f"{Q}:toril:p:x") == "1"

    def test_a_server_s_error_is_told(self, raw: redis.Redis) -> None:
        raw.set(f"{Q}:toril:p:x", 1)
        effects = own(raw, "return redis.call('LPUSH', ctx.own('x'), 1)")
        assert "WRONGTYPE" in effects.chunk_errors[0].message
        assert isinstance(effects.chunk_errors[0], ChunkError)

    def test_the_lease(self, raw: redis.Redis) -> None:
        raw.set(f"{Q}:toril:lease:p.sweep", "token")
        source = "return {ctx.lease_held('p.sweep', 'token'), ctx.lease_held('p.sweep', 'x')}"
        assert own(raw, source).value == [True, False]

    def test_removals_are_not_announced_unless_asked(self, raw: redis.Redis) -> None:
        plugins = Plugins(raw)
        end(plugins.run, finish("a"), finish("b"))
        source = """ctx.remove('a', 'completed', 'r', args) ctx.announce = true
            ctx.remove('b', 'completed', 'r', args)"""
        effects = own(raw, source, NOW + 5, chunk("ctx.report(ctx.id)", "removed"), wants=WANTS)
        assert [event.job.id for event in effects.events if isinstance(event, JobRemoved)] == [
            "a",
            "b",
        ]
        assert [report.value for report in effects.reports] == ["a", "b"]
        removed = [e for e in contents(raw)[f"{Q}:events"] if e["event"] == "removed"]
        assert [entry["jobId"] for entry in removed] == ["b"]

    def test_it_may_set_meta(self, raw: redis.Redis) -> None:
        own(raw, "ctx.set_meta('toril.p.floor', args)", 5)
        assert raw.hget(f"{Q}:meta", "toril.p.floor") == "5"


class TestStrip:
    SOURCE = """return {ctx.strip('completed', 'a', args, {
          data = false, returnvalue = false, stacktrace = false}, {'logs', 'processed'})}"""

    def test_parts_are_emptied(self, raw: redis.Redis, seed: Seed) -> None:
        seed.job("a", "completed", score=NOW, data="[1]", returnvalue="2", stacktrace="[]")
        raw.rpush(f"{Q}:a:logs", "line")
        raw.hset(f"{Q}:a:processed", "x", 1)
        raw.hset(f"{Q}:a:failed", "x", 1)
        before = raw.hgetall(f"{Q}:a")
        assert own(raw, self.SOURCE, NOW).value == [True]
        after = raw.hgetall(f"{Q}:a")
        assert after["data"] == "{ }"
        assert before.keys() - after.keys() == {"returnvalue", "stacktrace"}
        assert raw.exists(f"{Q}:a:logs", f"{Q}:a:processed", f"{Q}:a:failed") == 1
        assert raw.zscore(f"{Q}:completed", "a") == NOW

    @pytest.mark.parametrize("data", ["{}", "null"])
    def test_data_that_was_always_empty_is_not_taken(
        self, raw: redis.Redis, seed: Seed, data: str
    ) -> None:
        seed.job("a", "completed", score=NOW, data=data)
        assert own(raw, self.SOURCE, NOW).value == [True]
        assert raw.hget(f"{Q}:a", "data") == data

    @pytest.mark.parametrize("harm", ["changed", "gone", "locked"])
    def test_conditions(self, raw: redis.Redis, seed: Seed, harm: str) -> None:
        seed.job("a", "completed", score=NOW, data="[1]")
        match harm:
            case "changed":
                raw.zadd(f"{Q}:completed", {"a": NOW + 1})
            case "gone":
                raw.zrem(f"{Q}:completed", "a")
            case _:
                raw.set(f"{Q}:a:lock", "x")
        before = contents(raw)
        assert own(raw, self.SOURCE, NOW).value == [False, harm]
        assert contents(raw) == before

    @pytest.mark.parametrize(
        "source",
        [
            "ctx.strip('completed', 'a', args, {parentKey = false}, {})",
            "ctx.strip('completed', 'a', args, {}, {'dependencies'})",
            "ctx.strip('wait', 'a', args, {}, {})",
        ],
    )
    def test_what_makes_a_job_what_it_is_is_no_part(
        self, raw: redis.Redis, seed: Seed, source: str
    ) -> None:
        seed.job("a", "completed", score=NOW)
        before = contents(raw)
        done = own(raw, source, NOW)
        assert done.value is None
        assert done.chunk_errors
        assert contents(raw) == before
