"""Cleanup where somebody interferes: other libraries, operators, garbled data, clocks, broken
strategies. It keeps what is protected, removes the rest, and never stops."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
import redis
from tests.conftest import ServerFactory
from tests.support.place import Place, entries, foreign_finish, place

from toril import Flow, NewJob, hookimpl
from toril.plugins import FinishedJob, Json, Said
from toril_plugins import Ceiling, Hold, Holds, IdWindow, Keep, Retention


@pytest.fixture
async def here(redis_url: str) -> AsyncIterator[Place]:
    async with place(redis_url) as there:
        yield there


def both(keep: Any) -> list[Retention]:
    return [Retention(completed=keep, failed=keep)]


def beginning(kept: set[str], letter: str) -> set[str]:
    return {each for each in kept if each.startswith(letter)}


class Strategy:
    """Answers by the id: `gold…` is kept for ever, `boom…` breaks it; `answer` for all others."""

    def __init__(self, answer: Any = None) -> None:
        self.answer = answer

    @hookimpl
    def toril_plan_retention(self, job: FinishedJob) -> Any:
        if job.id.startswith("boom"):
            raise RuntimeError("no opinion")
        return Keep.forever() if job.id.startswith("gold") else self.answer


# Retries and removals in between


async def test_decisions_about_jobs_that_others_took_away_count_no_longer(
    here: Place, raw: redis.Redis
) -> None:
    await here.finish("a", "b", "c", name="fail", settings=both(Keep.forever()))
    for each in "abc":
        raw.zrem("bull:q:failed", each)
        raw.delete(f"bull:q:{each}")
    await here.queue.set(Retention(failed=2))
    await here.finish("v", "w", "x", "y", "z", name="fail")
    await here.sweep()
    assert await here.kept("failed") == {"y", "z"}
    assert entries(raw) == {}


@pytest.mark.parametrize("second", [Keep.forever(), Keep(last=5), "7d"])
async def test_a_second_finish_forgets_what_was_decided_at_the_first(
    redis_url: str, second: Any
) -> None:
    strategy = Strategy(Keep(age="1h"))
    async with place(redis_url, plugins=[strategy]) as here:
        await here.finish("f", name="fail")
        await here.queue.retry_all("failed")
        strategy.answer = second  # "7d" is no Keep: the job is undecided
        await here.run()
        await here.sweep("2h")
        assert await here.kept("failed") == {"f"}


async def test_a_retried_job_does_not_evict_others_of_its_name(
    here: Place, raw: redis.Redis
) -> None:
    await here.queue.set(Retention(failed=Keep(last=2, key="name")))
    await here.finish("a", "b", name="fail")
    job = await here.queue.get("b")
    assert job is not None
    await job.retry()
    raw.lrem("bull:q:wait", 1, "b")
    await here.finish("c", name="fail")
    assert await here.kept("failed") == {"a", "c"}


async def test_a_job_that_ends_the_other_way_leaves_nothing_of_its_first_end(
    here: Place, raw: redis.Redis
) -> None:
    await here.finish("f", name="fail", settings=[Retention(failed=Keep.forever())])
    await here.queue.retry_all("failed")
    raw.hset("bull:q:f", "name", "do")
    await here.run()
    assert await here.kept() == {"f"}
    await here.queue.remove("f")
    await here.sweep("11m")
    assert entries(raw) == {}


KEEPS = (
    Keep(age="1h"), Keep(last=50), Keep(last=50, age="1h"), Keep.forever(),
    Keep(last=5, key="data.c"), Keep(last=5, key="name", age="1h"),
)  # fmt: skip


def take_away(raw: redis.Redis, ids: set[str], *, retry: bool) -> None:
    """Retry or remove finished jobs as another library does, which knows nothing of ours."""
    for each in ids:
        raw.zrem("bull:q:completed", each)
        raw.zrem("bull:q:failed", each)
        if retry:
            raw.lpush("bull:q:wait", each)
        else:
            raw.delete(f"bull:q:{each}")
    raw.hdel("bull:q:meta", "toril.cleanup.own.completed", "toril.cleanup.own.failed")


@pytest.mark.parametrize("live", [None, Keep(last=7, key="data.c"), Keep(last=100)], ids=str)
@pytest.mark.parametrize(
    "way", ["remove", "clean", "retry", "obliterate", "foreign removal", "foreign retry", "rules"]
)
async def test_nothing_is_left_of_a_job_that_goes(
    here: Place, raw: redis.Redis, way: str, live: Keep | None
) -> None:
    if live:
        await here.queue.set(Retention(completed=live, failed=live))
    for n, keep in enumerate(KEEPS):
        await here.finish(f"a{n}", f"b{n}", settings=both(keep))
        await here.finish(f"c{n}", name="fail", settings=both(keep))
    await here.finish("l1", "l2")
    ids = await here.kept() | await here.kept("failed")
    assert len(ids) == 20
    match way:
        case "remove":
            for each in ids:
                assert await here.queue.remove(each)
        case "clean":
            await here.queue.clean("completed", older_than="0s")
            await here.queue.clean("failed", older_than="0s")
        case "retry":
            await here.queue.retry_all("failed")
            await here.queue.retry_all("completed")
            await here.queue.drain()
        case "obliterate":
            await here.queue.obliterate(force=True)
            assert list(raw.scan_iter("bull:q*")) == []
        case "rules":
            await here.sweep("2h")
            await here.queue.set(Retention(completed=Keep.nothing(), failed=Keep.nothing()))
            await here.sweep()
            await here.queue.unset(Retention)
            for each in await here.kept() | await here.kept("failed"):
                await here.queue.remove(each)
        case _:
            take_away(raw, ids, retry=way == "foreign retry")
    await here.sweep("11m")
    assert entries(raw) == {}
    assert raw.llen("bull:q:wait") == (20 if way == "foreign retry" else 0)
    fields: Any = raw.hkeys("bull:q:meta")
    assert {each for each in fields if "toril.cleanup" in each} <= {"toril.cleanup.swept"}


# Other libraries


@pytest.mark.parametrize("opts", [{"removeOnComplete": None}, {"removeOnComplete": "yes"}])
async def test_an_option_that_says_nothing_protects_nobody(
    here: Place, raw: redis.Redis, opts: Json
) -> None:
    foreign_finish(raw, *(f"j{n}" for n in range(250)), at=here.clock.now_ms(), opts=opts)
    await here.queue.set(Retention(completed=1))
    await here.sweep()
    assert len(await here.kept()) == 1


@pytest.mark.parametrize(
    "limit",
    ['{"count":1e300}', '{"age":1e300}', "1e25", '{"age":1e12,"count":3}', '{"age":-5}', "1e400"],
)
async def test_absurd_options_keep_the_job_and_harm_nobody(
    here: Place, raw: redis.Redis, limit: str
) -> None:
    foreign_finish(raw, "a", "b", at=here.clock.now_ms())
    await here.queue.set(Retention(completed=1))
    await here.queue.add("do", None, id="c")
    for each in "abc":
        raw.hset(f"bull:q:{each}", "opts", f'{{"removeOnComplete":{limit}}}')
    await here.finish("y", "z")
    await here.sweep()
    # A worker fails a job whose options it cannot read.
    assert await here.kept() | await here.kept("failed") == {"a", "b", "c", "z"}


@pytest.mark.parametrize("strategies", [[], [Strategy()]], ids=["values", "strategies"])
async def test_garbled_jobs_do_not_stop_the_sweep(
    redis_url: str, raw: redis.Redis, strategies: list[object]
) -> None:
    async with place(redis_url, plugins=strategies) as here:
        foreign_finish(raw, *(f"o{n}" for n in range(6)), at=here.clock.now_ms())
        raw.delete("bull:q:o0", "bull:q:o1")
        raw.rpush("bull:q:o0", "not a hash")  # and o1 is nowhere
        raw.hset("bull:q:o2", mapping={"toril": "{{{", "opts": "{{{removeOnComplete"})
        for n, said in enumerate(('[{"v":{"completed":{"age":"x"}}}]', "5", "[5]")):
            raw.hset(f"bull:q:o{3 + n}", "toril", f'{{"said":{{"retention":{said}}}}}')
        foreign_finish(raw, "x", "y", "z", at=here.clock.now_ms() + 1000)
        await here.queue.set(Retention(completed=1))
        for _ in range(3):
            await here.sweep("2m")
        kept = await here.kept()
        assert beginning(kept, "z") == {"z"}
        assert not kept & {"o0", "o1", "x", "y"}
        assert "o3" in kept, "something was said for it that nobody can read"


async def test_a_finish_evicts_past_a_garbled_job(here: Place, raw: redis.Redis) -> None:
    await here.queue.set(Retention(completed=1))
    foreign_finish(raw, "a", "b", at=here.clock.now_ms())
    raw.delete("bull:q:a")
    raw.rpush("bull:q:a", "not a hash")
    raw.hset("bull:q:b", "parentKey", "bull:p:1")
    raw.hset("bull:p:1", "name", "parent")
    raw.rpush("bull:p:1:dependencies", "garbled too")
    await here.finish("c", "d")
    assert await here.kept() == {"b", "d"}, "b may be a child for which its parent waits"


async def test_jobs_finished_by_a_slow_clock_go_too(here: Place, raw: redis.Redis) -> None:
    await here.finish("o", "p", settings=both(Keep.forever()))
    await here.finish("a", "b", "c")
    await here.queue.set(Retention(completed=1))
    await here.sweep()
    assert raw.hget("bull:q:meta", "toril.cleanup.floor.completed") is not None
    foreign_finish(raw, "late", at=here.clock.now_ms() - 60_000)
    await here.sweep("11m")
    assert await here.kept() == {"o", "p", "c"}


async def test_a_clock_that_is_ahead_does_not_end_adoption(here: Place, raw: redis.Redis) -> None:
    foreign_finish(raw, "tomorrow", at=here.clock.now_ms() + 86_400_000)
    await here.sweep("1s")
    foreign_finish(raw, "a", at=here.clock.now_ms(), opts={"removeOnComplete": {"age": 60}})
    await here.sweep("1s")
    await here.sweep("2m")
    assert await here.kept() == {"tomorrow"}


async def test_no_rule_evicts_what_a_strategy_keeps_whoever_finished_it_when(
    redis_url: str, raw: redis.Redis
) -> None:
    async with place(redis_url, plugins=[Strategy()]) as here:
        await here.queue.set(Retention(completed=1))
        await here.finish("a", "b", "c")
        await here.sweep()
        assert await here.kept() == {"c"}
        foreign_finish(raw, "gold", at=here.clock.now_ms() - 2000)  # by a clock that is behind
        await here.finish("d", "e")
        await here.sweep()
        assert await here.kept() == {"gold", "e"}


class Meanwhile:
    """A strategy: somebody does something while it is asked about `a`; then it answers.

    A sweep asks about a job when its time has come, and about those that ended last.
    """

    def __init__(self, answer: Keep | None = None) -> None:
        self.does: Callable[[], object] | None = None
        self.answer = answer
        self.done = False

    @hookimpl
    def toril_plan_retention(self, job: FinishedJob) -> Keep | None:
        if job.id != "a" or self.does is None or self.done:
            return None
        self.does()
        self.done = True
        return self.answer


@pytest.mark.parametrize(
    ("low", "high"),
    [
        (Keep("1h"), Keep("3h")),
        (Keep(last=1), Keep(last=3)),
        (Keep(last=1, key="name"), Keep(last=3, key="name")),
    ],
    ids=str,
)
async def test_a_limit_raised_while_a_strategy_is_asked_counts_at_once(
    redis_url: str, raw: redis.Redis, low: Keep, high: Keep
) -> None:
    asked = Meanwhile()

    def raised() -> None:
        said = [Said(Retention(completed=high), "queue", "test", 1)]
        for field, text in Retention.project(said).items():
            raw.hset("bull:q:meta", f"toril.retention.{field}", text)

    async with place(redis_url, plugins=[asked]) as here:
        await here.queue.set(Retention(completed=high))
        await here.finish("a")
        here.clock.advance("1s")
        await here.finish("b", "c")
        await here.sweep("58m")
        await here.queue.set(Retention(completed=low))
        asked.does = raised
        await here.sweep("3m")
        assert asked.done
        assert await here.kept() == {"a", "b", "c"}


async def test_a_job_that_ends_again_while_a_strategy_is_asked_is_not_decided_about(
    redis_url: str, raw: redis.Redis
) -> None:
    asked = Meanwhile(Keep("9d"))

    async with place(redis_url, plugins=[asked]) as here:

        def ended() -> None:
            foreign_finish(raw, "a", at=here.clock.now_ms())

        await here.queue.set(Retention(completed="1h"))
        await here.finish("a")
        here.clock.advance("1s")
        await here.finish("b")
        await here.sweep("58m")
        asked.does = ended
        await here.sweep("3m")
        assert asked.done
        assert await here.kept() == {"a"}
        assert entries(raw) == {}


# Many at once


async def test_ties_beyond_the_window_do_not_stop_eviction(here: Place, raw: redis.Redis) -> None:
    now = here.clock.now_ms()
    foreign_finish(
        raw, *(f"o{n:04}" for n in range(2500)), at=now, opts={"removeOnComplete": False}
    )
    foreign_finish(raw, "x", "y", "z", at=now)
    await here.queue.set(Retention(completed=1))
    async with asyncio.timeout(30):
        await here.sweep()
    kept = await here.kept()
    assert len(kept) == 2501
    assert "z" in kept


async def test_a_used_up_budget_leaves_nothing_behind_per_key(
    here: Place, raw: redis.Redis
) -> None:
    now = here.clock.now_ms()
    for value in "ab":
        ids = (f"{value}{n:03}" for n in range(150))
        foreign_finish(raw, *ids, at=now, data={"c": value})
    await here.queue.set(Retention(completed=Keep(last=200, key="data.c")))
    await here.sweep()
    await here.queue.set(Retention(completed=Keep(last=1, key="data.c")))
    here.clock.advance("1s")
    for value in "ab":
        await here.queue.add("do", {"c": value}, id=f"{value}999")
    await here.run()
    await here.sweep()
    assert await here.kept() == {"a999", "b999"}


async def test_a_used_up_budget_leaves_nothing_behind_of_own_counts_per_key(here: Place) -> None:
    async def finish(letter: str) -> None:
        each = Retention(completed=Keep(last=1, key="data.c"))
        jobs = [NewJob("do", {"c": n}, each, id=f"{letter}{n:02}") for n in range(60)]
        gone = [NewJob("do", None, Retention(completed=Keep.nothing())) for _ in range(60)]
        await here.queue.add_many([*jobs, *gone])
        await here.run_batches()

    await finish("a")
    here.clock.advance("1s")
    await finish("b")
    await here.sweep()
    kept = await here.kept()
    assert len(kept) == 60
    assert beginning(kept, "b") == kept


async def test_more_own_counts_fall_due_than_one_call_may_remove(here: Place) -> None:
    jobs = [NewJob("do", None, Retention(completed=300), id=f"a{n:03}") for n in range(300)]
    await here.queue.add_many(jobs)
    await here.run_batches()
    here.clock.advance("1s")
    await here.queue.add_many([NewJob("do", id=f"b{n:03}") for n in range(299)])
    await here.run_batches()
    await here.sweep()
    kept = await here.kept()
    assert len(beginning(kept, "a")) == 1
    assert len(beginning(kept, "b")) == 299


async def test_void_entries_do_not_hold_up_what_is_due(here: Place, raw: redis.Redis) -> None:
    ids = [f"j{n:03}" for n in range(600)]
    opts = {"removeOnComplete": {"age": 60}}
    foreign_finish(raw, *ids, at=here.clock.now_ms(), opts=opts)
    await here.sweep()
    raw.zrem("bull:q:completed", *ids[:500])
    await here.sweep("2m")
    assert await here.kept() == set()
    assert entries(raw) == {}


async def test_a_sweep_of_many_buckets_ends(here: Place, raw: redis.Redis) -> None:
    keep = Keep(last=5, key="data.n")
    await here.queue.set(Retention(completed=keep, failed=keep))
    now = here.clock.now_ms()
    for n in range(1200):
        foreign_finish(raw, f"c{n}", at=now, data={"n": n})
    for n in range(1700):
        foreign_finish(raw, f"f{n}", at=now, data={"n": n}, state="failed")
    await here.sweep()
    before = raw.info("commandstats")["cmdstat_evalsha"]["calls"]
    await here.sweep()
    assert raw.info("commandstats")["cmdstat_evalsha"]["calls"] - before < 150  # 20 buckets a call


@pytest.mark.parametrize("keep", [Keep(last=10), Keep(last=10, key="data.c")], ids=str)
async def test_a_strategy_that_breaks_for_many_does_not_stop_the_others(
    redis_url: str, raw: redis.Redis, keep: Keep
) -> None:
    async with place(redis_url, plugins=[Strategy()]) as here:
        now, data = here.clock.now_ms(), {"c": 1}
        foreign_finish(raw, *(f"boom{n:03}" for n in range(150)), at=now, data=data)
        foreign_finish(raw, *(f"gold{n:03}" for n in range(150)), at=now, data=data)
        foreign_finish(raw, *(f"z{n:03}" for n in range(150)), at=now + 1, data=data)
        await here.queue.set(Retention(completed=keep))
        await here.sweep("2m")
        kept = await here.kept()
        assert len(beginning(kept, "z")) == 10
        assert len(kept) == 310


@pytest.mark.parametrize("strategies", [[], [Strategy()]], ids=["values", "strategies"])
async def test_children_that_a_parent_waits_for_stay_and_stop_nobody(
    redis_url: str, raw: redis.Redis, strategies: list[object]
) -> None:
    async with place(redis_url, plugins=strategies) as here:
        await here.queue.set(Retention(failed=2))
        children = [Flow("q", "fail", {"n": n}, id=f"c{n:03}") for n in range(130)]
        await here.app.add_flow(Flow("p", "parent", None, id="parent", children=children))
        await here.run_batches()
        for n in range(5):
            await here.finish(f"z{n}", name="fail")
            await here.sweep()
        kept = await here.kept("failed")
        assert beginning(kept, "z") == {"z3", "z4"}
        assert len(kept) == 132
        assert await here.app.queue("p").state("parent") == "waiting-children"
        child = await here.queue.get("c000")
        assert child is not None
        facts = {fact.subject: fact for fact in await child.explain()}
        assert (facts["rule"].text, facts["rule"].level) == ("last 2", "queue")
        assert facts["removal"].text.startswith("not while its parent 'parent' in queue 'p' waits")
        await here.app.queue("p").remove("parent", children=False)
        await here.sweep("2h")
        await here.sweep("5s")
        assert await here.kept("failed") == {"z3", "z4"}
        assert entries(raw) == {}


async def test_children_with_a_word_of_their_own_stay_as_long(
    here: Place, raw: redis.Redis
) -> None:
    keeps = {
        "a": Keep.nothing(), "b": Keep(age="10m"), "c": Keep(last=3),
        "d": Keep(last=1, key="name"), "e": Keep(last=1, key="name"),
    }  # fmt: skip
    children = [
        Flow("q", "fail", None, Retention(failed=keep), id=name) for name, keep in keeps.items()
    ]
    await here.app.add_flow(Flow("p", "parent", None, children=children, id="parent"))
    await here.run()
    for n in range(5):
        await here.finish(f"z{n}", name="fail", settings=both(Keep.nothing()))
    for _ in range(5):
        await here.sweep("30m")
    assert await here.kept("failed") == set(keeps)
    await here.app.queue("p").remove("parent", children=False)
    await here.sweep("61m")
    assert await here.kept("failed") == {"e"}


# Values


async def test_values_of_a_field_that_differ_are_counted_apart(here: Place) -> None:
    await here.queue.set(Retention(completed=Keep(last=1, key="data.n")))
    values: tuple[Any, ...] = (
        1234567890123456,
        1234567890123457,
        "5",
        5,
        False,
        None,
        "nil",
        {"a": 1},
        {"a": 2},
        [],
    )
    jobs = [NewJob("do", {"n": value}, id=f"j{n}") for n, value in enumerate(values)]
    await here.queue.add_many([*jobs, NewJob("do", {}, id="jx"), NewJob("do", "text", id="jy")])
    await here.run()
    # Two have no such value, which is a value as well: one of them stays.
    assert len(await here.kept()) == len(values) + 1


@pytest.mark.parametrize("where", ["job", "queue", "strategy"])
@pytest.mark.parametrize(
    "keep",
    [
        Keep(last=2**53),
        Keep(age=f"{2**53}ms"),
        Keep(age=f"{2**53}ms", last=2**53, key="data.\x00ä:;{}.x"),
        Keep(age="0s"),
        Keep(age="0s", last=5, key="name"),
    ],
    ids=range(5),
)
async def test_extreme_values_mean_what_they_say(redis_url: str, where: str, keep: Keep) -> None:
    strategies = [Strategy(keep)] if where == "strategy" else []
    async with place(redis_url, plugins=strategies) as here:
        if where == "queue":
            await here.queue.set(Retention(completed=keep))
        settings = [Retention(completed=keep)] if where == "job" else []
        await here.finish("a", "b", settings=settings)
        assert await here.kept() == (set() if keep.is_nothing else {"a", "b"})
        await here.sweep("1s")
        assert await here.kept() == (set() if keep.is_nothing else {"a", "b"})


async def test_an_answer_that_is_no_keep_names_its_plugin(
    redis_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    strategy = Strategy("7d")
    async with place(redis_url, plugins=[strategy]) as here:
        await here.queue.set(Retention(completed=Keep.nothing()))
        await here.finish("a")
        await here.sweep()
        assert "plugin 'Strategy' answered toril_plan_retention with '7d'" in caplog.text
        strategy.answer = None
        await here.sweep("2m")
        await here.sweep("5s")
        assert await here.kept() == set()


# Changes and rivals


async def fewer_than(raw: redis.Redis, number: int) -> None:
    """Wait until a sweep that is under way has left fewer completed jobs."""
    while raw.zcard("bull:q:completed") >= number:
        await asyncio.sleep(0)


async def test_another_key_counts_anew_and_leaves_no_bucket(here: Place, raw: redis.Redis) -> None:
    jobs = [NewJob("ab"[n % 2], {"c": n % 4}, id=f"j{n:02}") for n in range(20)]
    await here.queue.add_many(jobs)
    await here.run()
    for last, key, kept in ((2, "data.c", 8), (2, "name", 4), (1, "name", 2)):
        await here.queue.set(Retention(completed=Keep(last=last, key=key)))
        await here.sweep()
        assert len(await here.kept()) == kept
    await here.queue.unset(Retention)
    await here.sweep()
    assert entries(raw) == {}


async def test_a_limit_raised_during_a_sweep_counts_at_once(here: Place, raw: redis.Redis) -> None:
    foreign_finish(raw, *(f"z{n:04}" for n in range(1000)), at=here.clock.now_ms())
    await here.queue.set(Retention(completed=10))
    sweep = asyncio.create_task(here.sweep())
    await fewer_than(raw, 900)
    await here.queue.set(Retention(completed=500))
    await sweep
    assert raw.zcard("bull:q:completed") == 500


async def test_a_sweeper_that_loses_its_lease_stops(redis_url: str, raw: redis.Redis) -> None:
    async with place(redis_url) as one, place(redis_url) as other:
        foreign_finish(raw, *(f"z{n:04}" for n in range(2000)), at=one.clock.now_ms())
        await one.queue.set(Retention(completed=10))
        sweep = asyncio.create_task(one.app.run_services("q"))
        await fewer_than(raw, 1900)
        assert not await other.app.run_services("q")
        assert not await one.app.run_services("q"), "nor the same App twice"
        (lease,) = raw.keys("bull:q:toril:lease:*")
        raw.set(lease, "somebody else", px=60_000)
        left = raw.zcard("bull:q:completed")
        await sweep
        assert raw.zcard("bull:q:completed") == left > 10
        assert raw.get(lease) == "somebody else"
        raw.delete(lease)
        await other.sweep()
        assert raw.zcard("bull:q:completed") == 10


async def test_a_full_server_is_swept(fresh_server: ServerFactory) -> None:
    server = fresh_server(maxmemory_policy="noeviction")
    async with place(server.url) as here:
        await here.queue.set(Retention(completed="1h", failed=Keep(last=3, key="data.c")))
        await here.finish(*(f"a{n}" for n in range(5)))
        await here.finish(*(f"f{n}" for n in range(5)), name="fail")
        await here.finish("own", settings=[Retention(completed="10m")])
        await here.queue.add("do", {"c": "x"}, id="late")
        with server.client() as raw:
            at = here.clock.now_ms()
            opts = {"removeOnComplete": {"age": 60}}
            foreign_finish(raw, *(f"g{n:02}" for n in range(50)), at=at, opts=opts)
            raw.config_set("maxmemory", "1mb")
            with pytest.raises(redis.OutOfMemoryError):
                raw.set("anything", "at all")
        await here.run()
        await here.queue.set(Retention(completed=3, failed=Keep(last=1, key="data.c")))
        await here.sweep("20m")
        await here.sweep("5s")
        assert await here.kept() == {"a3", "a4", "late"}
        assert await here.kept("failed") == {"f4"}


@pytest.mark.parametrize(
    ("said", "own"),
    [
        ([Retention(completed=Keep(last=1, tombstone="2h"))], None),
        ([IdWindow("1h"), Retention(completed=1)], None),
        ([Retention(completed=Keep(last=1, key="name"))], None),
        ([Retention(completed=Keep("9h", first=0, last=1))], None),
        ([Ceiling(completed=1)], Keep.forever()),
        ([Retention(completed=Keep.forever())], Keep("1m", tombstone="2h")),
        ([Holds(Hold(id="a4")), Retention(completed=Keep.nothing())], None),
    ],
    ids=str,
)
@pytest.mark.parametrize("asked", [False, True], ids=["", "asked"])
async def test_a_full_server_is_relieved_by_any_rule(
    fresh_server: ServerFactory, said: list[Any], own: Keep | None, asked: bool
) -> None:
    server = fresh_server(maxmemory_policy="noeviction")
    async with place(server.url, plugins=[Meanwhile()] if asked else []) as here:
        await here.finish(
            *(f"a{n}" for n in range(5)), settings=[Retention(completed=own)] if own else []
        )
        with server.client() as raw:
            raw.config_set("maxmemory", "1mb")
            with pytest.raises(redis.OutOfMemoryError):
                raw.set("anything", "at all")
        for each in said:
            await here.queue.set(each)
        await here.sweep("2m")
        await here.sweep("2m")
        assert await here.kept() <= {"a4"}
