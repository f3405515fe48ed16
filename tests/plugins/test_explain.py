"""explain: what holds, who said it, what it overrode, and what stands in the way."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import redis
from tests.support.place import Place, foreign_finish, place, work

from toril import Every, Flow, hookimpl
from toril.plugins import Fact, FinishedJob, as_datetime
from toril_plugins import (
    Ceiling,
    Due,
    Foreign,
    Hold,
    IdWindow,
    Keep,
    Postpone,
    Requires,
    Retention,
    Rewrite,
    Verdicts,
    hold,
)
from toril_plugins.archive import Archive


@pytest.fixture
async def here(redis_url: str) -> AsyncIterator[Place]:
    async with place(redis_url, Retention(completed="9d")) as there:
        yield there


async def facts(here: Place, id: str) -> dict[str, list[Fact]]:
    job = await here.queue.get(id)
    assert job is not None
    found: dict[str, list[Fact]] = {}
    for fact in await job.explain():
        found.setdefault(fact.subject, []).append(fact)
    return found


async def test_every_level_that_spoke_is_named(here: Place) -> None:
    await here.queue.set(Retention(completed="7d"), source="eve")
    since = here.clock.now_ms()
    await here.queue.add("do", None, Retention(completed="1d"), id="a")
    await here.run(Retention(completed="8d"))
    told = await facts(here, "a")
    assert (told["rule"][0].text, told["rule"][0].level) == ("1d", "job")
    (said,) = told["said"]
    assert (said.text, said.level, said.at) == ("1d, by Queue.add", "job", since)
    assert [(each.level, each.text.partition(",")[0]) for each in told["overrode"]] == [
        ("queue", "7d"), ("worker", "8d"), ("application", "9d"),
    ]  # fmt: skip
    assert told["overrode"][0].text == "7d, by eve"
    assert told["foreign"][0].text.startswith("completed: told removeOnComplete = ")


async def test_before_it_ends_both_ends_are_told(here: Place) -> None:
    await here.queue.set(Retention(failed=5))
    await here.queue.set(Ceiling(failed="30d"))
    await here.queue.add("do", None, id="a")
    told = await facts(here, "a")
    assert told["if it fails"][0].text.startswith("last 5, by ")
    assert "30d" in told["ceiling"][0].text
    assert [each.text for each in told["foreign"]] == [
        f"{outcome}: not told; what they do is unknown" for outcome in ("completed", "failed")
    ]


async def test_processes_that_disagree(here: Place) -> None:
    await here.finish("a")
    await here.run(Retention(completed="1d"))
    await here.run(Retention(completed="2d"))
    told = await facts(here, "a")
    assert told["rule"][0].text == "2d"
    assert told["disagreement"][0].text.startswith("1d, by app.worker")


async def test_processes_that_disagree_about_something_else(here: Place) -> None:
    await here.finish("a")
    await here.run(Ceiling(completed="1d"), IdWindow("1h"))
    since = here.clock.now_ms()
    here.clock.advance("1m")
    await here.run(Ceiling(completed="2d", failed=5), IdWindow("2h"))
    ceiling, window = (await facts(here, "a"))["disagreement"]
    assert (ceiling.level, ceiling.at) == (window.level, window.at) == ("worker", since)
    assert ceiling.text.startswith("a ceiling: not beyond 1d, by app.worker")
    assert window.text.startswith("its id: taken for 1h, by app.worker")


async def test_holds_and_required_plugins(here: Place) -> None:
    said = await hold(here.queue, Hold(id="a", why="audit", who="eve"))
    since = f"{as_datetime(here.clock.now_ms()):%Y-%m-%d %H:%M} UTC"
    here.clock.advance("1d")
    await here.queue.set(Requires("archive"))
    await here.finish("a")
    told = await facts(here, "a")
    assert told["hold"][0].text == f"held ({said.handle}) by eve since {since}: audit"
    assert "while it is held" in told["removal"][0].text
    assert "lacks archive" in told["requires"][0].text


async def test_an_isolated_job_tells_foreigners_something_that_nobody_said(
    here: Place, raw: redis.Redis
) -> None:
    await here.queue.set(Foreign("isolate"))
    await here.finish("a")
    told = await facts(here, "a")
    assert told["foreign"][0].text == "isolate"
    assert told["foreign"][1].text == ("completed: told removeOnComplete = False, for them only")
    assert told["rule"][0].level == "application"
    options: Any = {"removeOnComplete": {"age": 60}}
    foreign_finish(raw, "f", at=here.clock.now_ms(), opts=options)
    assert (await facts(here, "f"))["said"][0].text == "1m, by option removeOnComplete"


class Gold:
    """A strategy for some jobs, and a reviewer of others."""

    toril_name = "gold"
    review: Verdicts = None

    @hookimpl
    def toril_plan_retention(self, job: FinishedJob) -> Keep | None:
        if job.name == "broken":
            raise RuntimeError("no database")
        return Keep("365d") if job.name == "gold" else None

    @hookimpl
    def toril_review_removal(self, due: Sequence[Due]) -> Verdicts:
        return self.review


async def test_what_a_plugin_decided_overrides_all_that_was_said(redis_url: str) -> None:
    async with place(redis_url, Retention(completed="9d"), plugins=[Gold()]) as here:
        await here.queue.add("gold", None, Retention(completed="1d"), id="a")
        await here.run()
        decided = here.clock.now_ms()
        await here.sweep("1d")
        told = await facts(here, "a")
    assert (told["rule"][0].text, told["rule"][0].level) == ("365d", "plugin gold")
    assert told["decided"][0].text.startswith("by the plugin gold (")
    assert told["decided"][0].at == decided
    assert "said" not in told
    assert [(each.level, each.text) for each in told["overrode"]] == [
        ("job", "1d, by Queue.add"), ("application", "9d, by App"),
    ]  # fmt: skip


async def test_when_a_reviewer_decided(redis_url: str) -> None:
    gold = Gold()
    async with place(redis_url, Retention(completed="1d"), plugins=[gold]) as here:
        await here.finish("a", "b")
        gold.review = {"a": Rewrite(keep=Keep("9d")), "b": Rewrite(keep=Keep("1h"))}
        await here.sweep("1d")
        decided = here.clock.now_ms()
        gold.review = {"a": Postpone("1d", "later"), "b": Postpone("1d", "later")}
        await here.sweep("1h")
        told = [(await facts(here, id))["decided"][0] for id in ("a", "b")]
    assert [(fact.at, fact.level) for fact in told] == [(decided, "plugin gold")] * 2


async def test_for_how_long_an_id_stays_taken(here: Place) -> None:
    await here.queue.set(IdWindow("1h"), source="eve")
    since = here.clock.now_ms()
    await here.run(IdWindow("2h"))
    await here.finish("a")
    told = await facts(here, "a")
    text = "taken for 1h when a rule has removed it, by eve"
    assert told["id"] == [Fact("id", text, since, "queue")]
    assert told["overrode"][-1].text.startswith("its id: taken for 2h")
    assert told["overrode"][-1].level == "worker"


async def test_undecided_as_a_plugin_broke(redis_url: str) -> None:
    async with place(redis_url, Retention(completed="9d"), plugins=[Gold()]) as here:
        await here.finish("a", name="broken")
        assert (await facts(here, "a"))["removal"][0].text == (
            "undecided: the sweeper asks again at the next sweep"
        )
        await here.sweep()
        told = await facts(here, "a")
    assert "rule" not in told
    text = "undecided, as plugin gold could not answer: the sweeper asks again in 1m"
    assert told["removal"][0].text.startswith(text)
    assert told["removal"][0].at is not None
    assert told["said"][0].text == "9d, by App"


async def test_undecided_as_nobody_was_asked(here: Place, raw: redis.Redis) -> None:
    options: Any = {"removeOnComplete": {"age": 7200}}
    foreign_finish(raw, "f", at=here.clock.now_ms(), opts=options)
    told = await facts(here, "f")
    assert "rule" not in told
    assert told["removal"][0].text.startswith("undecided: nobody was asked when it finished")
    await here.sweep()
    told = await facts(here, "f")
    assert (told["rule"][0].text, told["rule"][0].level) == ("2h", "job")
    assert told["removal"][0].text.startswith("in 2h (")


async def test_the_rule_tells_since_when(here: Place) -> None:
    since = here.clock.now_ms()
    await here.queue.set(Retention(completed="7d"), source="eve")
    here.clock.advance("1h")
    await here.finish("a")
    (rule,) = (await facts(here, "a"))["rule"]
    assert (rule.text, rule.level, rule.at) == ("7d", "queue", since)


async def test_a_parked_job_tells_why_and_until_when(redis_url: str) -> None:
    gold = Gold()
    async with place(redis_url, Retention(completed="1h"), plugins=[gold]) as here:
        await here.finish("a")
        gold.review = {"a": Postpone("2d", "no removal on Fridays")}
        await here.sweep("2h")
        (removal, *_) = (await facts(here, "a"))["removal"]
        assert removal.text.startswith("put off: plugin gold: no removal on Fridays; it comes ")
        assert "again in 2d (" in removal.text
        assert removal.at == here.clock.now_ms() + 2 * 86_400_000
        gold.review = None
        for later in ("2d", "5s", "5s"):
            await here.sweep(later)
        assert await here.kept() == set()


async def test_a_child_that_its_parent_waits_for(here: Place) -> None:
    children = [Flow("q", "fail", id="kid")]
    await here.queue.set(Retention(failed="1m"))
    await here.app.add_flow(Flow("p", "parent", id="top", children=children))
    await here.run()
    told = await facts(here, "kid")
    assert told["removal"][0].text == "not while its parent 'top' in queue 'p' waits for it"
    await here.sweep("2m")
    told = await facts(here, "kid")
    assert told["removal"][0].text.startswith(
        "not while its parent 'top' in queue 'p' waits for it; it comes again in 2m"
    )
    await here.app.queue("p").remove("top", children=False)
    assert (await facts(here, "kid"))["removal"][0].text.startswith(
        "put off: its parent waited for it; it comes again in 2m"
    )
    for later in ("3m", "5s"):
        await here.sweep(later)
    assert await here.kept("failed") == set()


async def test_a_job_that_is_kept_with_its_flow(here: Place) -> None:
    whole = Retention(completed=Keep("2d", flow=True))
    await here.app.add_flow(Flow("p", "do", id="top", children=[Flow("q", "do", id="kid")]), whole)
    await here.run()
    (removal,) = (await facts(here, "kid"))["removal"]
    assert removal.text == (
        "with its flow, when its root 'top' in queue 'p' has ended, and 2d have passed since"
    )
    await here.app.worker("p", work).run(burst=True)
    (removal,) = (await facts(here, "kid"))["removal"]
    assert removal.text.startswith("with its flow, whose root 'top' in queue 'p' ended on ")
    assert "in 2d (" in removal.text
    assert removal.at == here.clock.now_ms() + 2 * 86_400_000
    await hold(here.queue, Hold(id="kid", why="audit"))
    here.clock.advance("2d")
    assert await here.app.run_services("p")
    top = await here.app.queue("p").get("top")
    assert top is not None
    why, removal = [fact for fact in await top.explain() if fact.subject == "removal"]
    assert why.text.startswith("put off: job kid of queue q: held; it comes again in 1h (")
    assert removal.at == why.at


@pytest.mark.parametrize("own", [True, False], ids=["job", "queue"])
async def test_tiers_that_are_done_and_to_come(here: Place, *, own: bool) -> None:
    keep = Retention(completed=Keep("30d", logs="1d", data="7d", tombstone="90d"))
    said_at = here.clock.now_ms()
    if not own:
        await here.queue.set(keep)
    await here.finish("a", settings=[keep] if own else [])
    ended = here.clock.now_ms()
    told = await facts(here, "a")
    assert [each.text.partition(" (")[0] for each in told["tier"]] == [
        "its log lines and stack traces go in 1d",
        "its data, its result and what its children returned go in 7d",
    ]
    assert [each.at for each in told["tier"]] == [ended + n * 86_400_000 for n in (1, 7)]
    assert told["removal"][0].at == ended + 30 * 86_400_000
    assert told["tombstone"][0].at == ended + 90 * 86_400_000
    await here.sweep("1d")
    told = await facts(here, "a")
    assert told["tier"][0].text == "its log lines and stack traces have gone, 1d after it finished"
    assert "go in 6d (" in told["tier"][1].text
    assert told["removal"][0].at == ended + 30 * 86_400_000
    await here.sweep("6d")
    assert "have gone, 7d after" in (await facts(here, "a"))["tier"][1].text
    job = await here.queue.get("a")
    await here.sweep("23d")
    assert job is not None
    gone = {fact.subject: fact for fact in await job.explain()}
    level = "job" if own else "queue"
    assert (gone["rule"].level, gone["rule"].text.partition(",")[0]) == (level, "30d")
    assert gone["removal"].at == here.clock.now_ms()
    assert "tier" not in gone
    assert (gone["said"].level, gone["said"].at) == (level, said_at)
    assert gone["overrode"].text == "9d, by App"


async def test_a_tombstone_tells_whom_its_rule_overrode(here: Place) -> None:
    of_flow, of_job = Retention(completed="3d"), Retention(completed=Keep("1d", tombstone="90d"))
    await here.queue.set(Retention(completed="7d"), source="eve")
    await here.app.add_flow(Flow("q", "do", None, of_job, id="a"), of_flow)
    await here.run()
    await here.queue.schedule("s", Every("1h"), "run", None, of_job)
    await here.queue.remove_schedule("s")
    await here.run()
    gone = {job.name: job async for job in here.queue.jobs("completed")}
    await here.sweep("1d")
    here.clock.advance("1s")
    await here.queue.set(Retention(completed="8d"), source="later")
    for name, level, overrode in (
        ("do", "job", [("flow", "3d, by add_flow"), ("application", "9d, by App")]),
        ("run", "template", [("application", "9d, by App")]),
    ):
        assert await here.queue.get(gone[name].id) is None
        told = await gone[name].explain()
        (said,) = [fact for fact in told if fact.subject == "said"]
        assert (said.level, said.text.partition(",")[0]) == (level, "1d")
        assert [(fact.level, fact.text) for fact in told if fact.subject == "overrode"] == overrode


@pytest.mark.parametrize(
    ("option", "text"),
    [({"age": 86_400}, "1d"), (5, "last 5"), (False, "for ever"), (None, "")],
)
async def test_a_tombstone_tells_of_bullmqs_own_options(
    redis_url: str, raw: redis.Redis, option: Any, text: str
) -> None:
    class Shorter:
        @hookimpl
        def toril_plan_retention(self) -> Keep:
            return Keep("1h", tombstone="9d")

    async with place(redis_url, plugins=["*", Shorter()]) as here:
        at = here.clock.now_ms()
        foreign_finish(raw, "a", at=at, opts={"removeOnComplete": option})
        job = await here.queue.get("a")
        assert job is not None
        await here.sweep("1h")
        told = await job.explain()
        assert [fact.text for fact in told if fact.subject == "rule"] == ["1h, tombstone 9d"]
        assert [
            (fact.text, fact.level, fact.at) for fact in told if fact.subject == "overrode"
        ] == [(f"{text}, by option removeOnComplete", "job", at)] * bool(text)


async def test_a_ceiling_tells_when_the_job_goes_by_it(here: Place) -> None:
    await here.queue.set(Ceiling(completed=Keep("1d", last=3)), source="eve")
    await here.finish("a", "b")
    told = await facts(here, "a")
    assert told["removal"][0].text.startswith("in 9d (")
    assert told["ceiling"][0].text.startswith(
        "not beyond last 3, 1d, by eve; by it the job goes in 1d ("
    )
    assert told["ceiling"][0].text.endswith("; by it the job goes after 2 more completed jobs")


async def test_jobs_that_are_counted_together(here: Place) -> None:
    await here.queue.set(Retention(completed=Keep(first=1, last=1, key="data.c")))
    await here.finish("a1", "a2", "b1")
    assert (await facts(here, "a1"))["removal"][0].text == (
        "not by number: it is one of the first that are counted together"
    )
    assert (await facts(here, "a2"))["removal"][0].text == "after 1 more completed jobs"
    await here.finish("a3")
    assert await here.kept() == {"a1", "a3", "b1"}


async def test_a_missing_plugin_and_a_queue_that_nobody_sweeps(here: Place) -> None:
    await here.queue.set(Retention(completed="1h"))
    await here.finish("a")
    assert "sweeping" not in await facts(here, "a")
    here.clock.advance("11m")
    (sweeping,) = (await facts(here, "a"))["sweeping"]
    assert sweeping.text.startswith("no process has ever swept the queue: run a worker of Toril")
    await here.sweep()
    assert "sweeping" not in await facts(here, "a")
    await here.queue.set(Requires("acme"), source="eve")
    here.clock.advance("2h")
    told = await facts(here, "a")
    assert told["removal"][0].text == "at the next sweep, by a process that runs acme"
    assert told["requires"][0].text == (
        "nobody removes it without the plugin acme, by eve; this process lacks acme"
    )


async def test_archived(redis_url: str, tmp_path: Path) -> None:
    config = {"archive": {"sqlite": str(tmp_path / "a.db")}}
    async with place(redis_url, Retention(completed="1h"), config=config) as here:
        await here.finish("a")
        assert (await facts(here, "a"))["archive"][0].text == (
            "it is copied to sqlite before a rule removes it"
        )
        job = await here.queue.get("a")
        assert job is not None
        await here.sweep("2h")
        gone = {fact.subject: fact for fact in await job.explain()}
        assert "as 'archive' tells" in gone["state"].text
        assert gone["archive"].text.startswith("sqlite has a copy of how it completed on 20")
        assert gone["archive"].text.endswith(", made as it was to go by application: 1h")
        assert gone["archive"].at == here.clock.now_ms()
        (copy,) = (await Archive.of(here.app).find()).jobs
        await Archive.of(here.app).restore(copy, stay="3d")
        told = await facts(here, "a")
        assert (told["rule"][0].text, told["rule"][0].level) == ("3d", "restored")
        assert told["decided"][0].text == "when it was put back; it stays that long"
        assert told["overrode"][0].text == "1h, by App"
        assert "has a copy" in told["archive"][0].text
