"""The executor of retention: the gate before every removal, those who review and those who copy."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Sequence
from typing import Any

import pytest
import redis
from tests.support.place import Place, entries, foreign_finish, keys_of, place

from toril import Flow, NewJob, hookimpl
from toril.plugins import FinishedJob, GiveWay
from toril_plugins import (
    Ceiling,
    Details,
    Due,
    Flows,
    FlowState,
    Hold,
    Holds,
    Keep,
    Postpone,
    Requires,
    Retention,
    Rewrite,
    Verdicts,
)

HOURLY = Retention(completed="1h", failed="1h")


@pytest.fixture
async def here(redis_url: str) -> AsyncIterator[Place]:
    async with place(redis_url) as there:
        yield there


class Reviewer:
    """Keeps a list of what it was shown, and answers what it was told to, by job id."""

    def __init__(self, **answers: Any) -> None:
        self.answers: dict[str, Any] = answers
        self.shown: list[list[str]] = []
        self.due: list[Due] = []

    @hookimpl
    def toril_review_removal(self, due: Sequence[Due]) -> Verdicts:
        self.shown.append([each.job.id for each in due])
        self.due += due
        found = {each.job.id: self.answers.get(each.job.id) for each in due}
        for answer in found.values():
            if isinstance(answer, Exception):
                raise answer
        return {job_id: answer for job_id, answer in found.items() if answer is not None}


class Second(Reviewer):
    """Another one, after the first."""


class Copier:
    """Copies jobs; `broken` are those it cannot copy."""

    def __init__(self) -> None:
        self.copied: list[str] = []
        self.jobs: list[FinishedJob] = []
        self.broken: set[str] = set()
        self.calls: list[int] = []

    @hookimpl
    async def toril_before_removal(self, jobs: Sequence[FinishedJob]) -> None:
        await asyncio.sleep(0)
        self.calls.append(len(jobs))
        if self.broken & {job.id for job in jobs}:
            raise OSError("the disk is full")
        self.copied += [job.id for job in jobs]
        self.jobs += jobs


# Nobody is careful


async def test_nobody_careful_everything_goes_at_the_finish(here: Place) -> None:
    await here.queue.set(Retention(completed=2))
    await here.finish("a", "b", "c", "d")
    assert await here.kept() == {"c", "d"}
    await here.finish("n", settings=[Retention(completed=Keep.nothing())])
    assert await here.kept() == {"c", "d"}


# Review


@pytest.mark.parametrize(
    ("said", "own"),
    [
        (Retention(completed=2), None),
        (Retention(completed=Keep(last=2, key="name")), None),
        (Retention(completed=Keep(first=1, last=1)), None),
        (Retention(completed="1h"), None),
        (Retention(completed=Keep.nothing()), None),
        (None, Retention(completed="1h")),
        (None, Retention(completed=Keep(last=2))),
        (None, Retention(completed=Keep(last=2, key="name"))),
        (None, Retention(completed=Keep(first=2, key="name"))),
        (None, Retention(completed=Keep.nothing())),
        (Ceiling(completed=2), Retention(completed=Keep.forever())),
        (Ceiling(completed="1h"), Retention(completed=Keep.forever())),
    ],
    ids=str,
)
async def test_whatever_the_rule_it_goes_by_a_job_is_reviewed_and_copied_first(
    redis_url: str, raw: redis.Redis, said: Any, own: Any
) -> None:
    reviewer, copier = Reviewer(), Copier()
    async with place(redis_url, plugins=[reviewer, copier]) as here:
        if said:
            await here.queue.set(said)
        await here.finish("a", "b", "c", "d", settings=[own] if own else [])
        # Nothing goes in the finishing step. The worker may have swept meanwhile, and stopped
        # between copying and removing.
        assert {"a", "b", "c", "d"} - await here.kept() <= set(copier.copied)
        for _ in range(3):
            await here.sweep("61m")
        kept = await here.kept()
        gone = {"a", "b", "c", "d"} - kept
        assert gone
        # At least once: a worker that stops may have copied some already.
        assert set(copier.copied) == gone
        assert {each for batch in reviewer.shown for each in batch} == gone
        assert {job_id for job_id, _ in here.removed.jobs} == gone
        for each in gone:
            assert keys_of(raw, each) == []
        assert all(job.data == {"c": job.id} for job in copier.jobs)
        if not kept:
            assert entries(raw) == {}


async def test_what_a_reviewer_is_shown(redis_url: str) -> None:
    reviewer = Reviewer()
    async with place(redis_url, plugins=[reviewer]) as here:
        await here.queue.set(Retention(completed="1h"))
        await here.finish("a")
        await here.finish("b", settings=[Retention(completed=Keep(last=1, age="2h"))])
        await here.sweep("3h")
        due = {each.job.id: each for each in reviewer.due}
        assert due["a"].keep == Keep("1h")
        assert due["a"].rule == "queue: 1h"
        assert due["b"].keep == Keep("2h", last=1)
        assert due["b"].rule == "job: last 1, 2h"
        assert due["a"].note is due["b"].note is None
        assert due["a"].job.outcome == "completed"
        assert due["a"].job.result == {"c": "a"}


@pytest.mark.parametrize("own", [None, Retention(completed="1h")], ids=["live", "own"])
async def test_a_postponed_job_comes_again_and_says_why(redis_url: str, own: Any) -> None:
    reviewer = Reviewer(a=Postpone("2h", "not on Fridays"))
    async with place(redis_url, plugins=[reviewer]) as here:
        await here.queue.set(Retention(completed="1h"))
        await here.finish("a", "b", settings=[own] if own else [])
        await here.sweep("61m")
        assert await here.kept() == {"a"}
        job = await here.queue.get("a")
        assert job is not None
        assert "not on Fridays" in " ".join(fact.text for fact in await job.explain())
        for _ in range(3):
            await here.sweep("30m")
        assert [each for batch in reviewer.shown for each in batch if each == "a"] == ["a"]
        reviewer.answers.clear()
        await here.sweep("31m")
        await here.sweep("5s")
        assert await here.kept() == set()


async def test_a_postponed_job_does_not_let_others_go_in_its_place(redis_url: str) -> None:
    reviewer = Reviewer(a=Postpone("2h", "later"))
    async with place(redis_url, plugins=[reviewer]) as here:
        await here.queue.set(Retention(completed=2))
        await here.finish("a", "b", "c")
        await here.sweep()
        assert await here.kept() == {"a", "b", "c"}
        await here.finish("d")
        await here.sweep()
        assert await here.kept() == {"a", "c", "d"}


@pytest.mark.parametrize("own", [None, Retention(completed="1h")], ids=["live", "own"])
async def test_a_rewritten_job_has_other_data_another_decision_and_a_note(
    redis_url: str, raw: redis.Redis, own: Any
) -> None:
    keep = Keep(age="10d")
    reviewer = Reviewer(a=Rewrite(data={"c": None}, keep=keep, note="erased"))
    async with place(redis_url, plugins=[reviewer]) as here:
        await here.queue.set(Retention(completed="1h"))
        await here.finish("a", settings=[own] if own else [])
        await here.sweep("61m")
        job = await here.queue.get("a")
        assert job is not None
        assert job.data == {"c": None}
        reviewer.answers.clear()
        await here.sweep("9d")
        assert await here.kept() == {"a"}
        await here.sweep("24h")
        assert await here.kept() == set()
        assert [(each.keep, each.note) for each in reviewer.due[1:]] == [(keep, "erased")]
        assert entries(raw) == {}


async def test_a_rewrite_without_data_leaves_the_data(redis_url: str) -> None:
    reviewer = Reviewer(a=Rewrite(keep=Keep.forever()))
    async with place(redis_url, plugins=[reviewer]) as here:
        await here.finish("a", settings=[Retention(completed="1h")])
        await here.sweep("2h")
        await here.sweep("900d")
        job = await here.queue.get("a")
        assert job is not None
        assert job.data == {"c": "a"}


async def test_a_rewrite_to_what_is_over_already_comes_again_a_minute_later(
    redis_url: str,
) -> None:
    reviewer = Reviewer(a=Rewrite(keep=Keep(age="1m")), b=Rewrite(keep=Keep.nothing()))
    async with place(redis_url, plugins=[reviewer]) as here:
        await here.finish("a", "b", settings=[Retention(completed="1h")])
        await here.sweep("2h")
        assert len(reviewer.due) == 2, "not again and again in one sweep"
        await here.sweep("30s")
        assert len(reviewer.due) == 2
        await here.sweep("31s")
        assert len(reviewer.due) == 4
        assert await here.kept() == {"a", "b"}


async def test_a_job_that_one_reviewer_keeps_is_not_shown_to_the_next(redis_url: str) -> None:
    first, second = Reviewer(a=Postpone("1h", "no")), Second(b=Postpone("1h", "no"))
    copier = Copier()
    async with place(redis_url, plugins=[first, second, copier]) as here:
        await here.queue.set(HOURLY)
        await here.finish("a", "b", "c")
        await here.sweep("2h")
        assert first.shown == [["a", "b", "c"]]
        assert second.shown == [["b", "c"]]
        assert copier.copied == ["c"]
        assert await here.kept() == {"a", "b"}


@pytest.mark.parametrize(
    "answer",
    [
        ValueError("no opinion"),
        "a word",
        {"b": Postpone("1h", "not shown to it")},
        Rewrite(keep=Keep.forever(), data=float("nan")),
    ],
    ids=str,
)
async def test_a_broken_reviewer_keeps_them_all(redis_url: str, answer: Any) -> None:
    class Broken:
        @hookimpl
        def toril_review_removal(self, due: Sequence[Due]) -> Any:
            if isinstance(answer, Exception):
                raise answer
            return answer if isinstance(answer, dict) else {each.job.id: answer for each in due}

    copier = Copier()
    async with place(redis_url, plugins=[Broken(), copier]) as here:
        await here.queue.set(HOURLY)
        await here.finish("a", settings=[Retention(completed="1h")])
        await here.finish("c")
        for _ in range(2):
            await here.sweep("2h")
        assert await here.kept() == {"a", "c"}
        assert copier.copied == []
        job = await here.queue.get("a")
        assert job is not None
        assert job.data == {"c": "a"}
        errors = [
            each for each in here.app.metrics() if each.name == "toril_retention_errors_total"
        ]
        assert sum(each.value for each in errors) >= 2


# Copying


async def test_a_copier_that_fails_keeps_them_all_until_it_works(redis_url: str) -> None:
    copier = Copier()
    async with place(redis_url, plugins=[copier]) as here:
        await here.queue.set(HOURLY)
        await here.finish("a", "b")
        copier.broken = {"a", "b"}
        await here.sweep("2h")
        assert await here.kept() == {"a", "b"}
        copier.broken = set()
        await here.sweep("5s")
        assert await here.kept() == set()
        assert sorted(copier.copied) == ["a", "b"]


async def test_one_job_that_cannot_be_copied_does_not_keep_the_others_for_ever(
    redis_url: str,
) -> None:
    copier = Copier()
    copier.broken = {"j7"}
    async with place(redis_url, plugins=[copier]) as here:
        await here.queue.add_many(NewJob("do", {"n": n}, HOURLY, id=f"j{n}") for n in range(20))
        await here.run_batches()
        here.clock.advance("1h")
        for _ in range(40):
            await here.sweep("1m")
        assert await here.kept() == {"j7"}
        assert sorted(copier.copied) == sorted({f"j{n}" for n in range(20)} - {"j7"})


async def test_a_child_that_its_parent_waits_for_is_neither_shown_nor_copied(
    redis_url: str,
) -> None:
    reviewer, copier = Reviewer(), Copier()
    async with place(redis_url, plugins=[reviewer, copier]) as here:
        await here.queue.set(HOURLY)
        flow = Flow("q", "top", children=[Flow("q", "fail", {"c": "x"}), Flow("q", "do", 1)])
        await here.app.add_flow(flow)
        await here.run()
        for _ in range(3):
            await here.sweep("3h")
        failed = await here.kept("failed")
        assert len(failed) == 1
        assert failed.isdisjoint(copier.copied)
        assert len(copier.copied) == 1, "the completed child keeps nobody waiting"


async def test_a_job_that_is_retried_while_it_is_copied_stays(redis_url: str) -> None:
    class Meddler(Copier):
        @hookimpl
        async def toril_before_removal(self, jobs: Sequence[FinishedJob]) -> None:
            await there.queue.retry_all("failed")

    async with place(redis_url, plugins=[Meddler()]) as there:
        here = there
        await here.finish("a", name="fail", settings=[HOURLY])
        await here.sweep("2h")
        assert await here.kept("waiting") == {"a"}


async def test_a_rule_that_is_changed_while_they_are_copied_counts(redis_url: str) -> None:
    class Meddler(Copier):
        @hookimpl
        async def toril_before_removal(self, jobs: Sequence[FinishedJob]) -> None:
            await there.queue.set(Retention(completed="9d"))

    async with place(redis_url, plugins=[Meddler()]) as there:
        here = there
        await here.queue.set(HOURLY)
        await here.finish("a")
        await here.sweep("2h")
        assert await here.kept() == {"a"}


async def test_details_are_read_only_if_somebody_names_them(
    redis_url: str, raw: redis.Redis
) -> None:
    seen: dict[str, Any] = {}

    class Detailed:
        @hookimpl
        async def toril_before_removal(self, jobs: Sequence[FinishedJob], details: Details) -> None:
            seen.update(details)

    async with place(redis_url, plugins=[Detailed(), Copier()]) as here:
        await here.queue.set(HOURLY)
        await here.finish("a", "b")
        raw.rpush("bull:q:a:logs", *(f"line {n}" for n in range(2500)))
        raw.hset("bull:q:a:processed", mapping={f"bull:p:{n}": f"[{n}]" for n in range(1500)})
        raw.hset("bull:q:a:failed", "bull:p:x", "went wrong")
        await here.sweep("2h")
        assert await here.kept() == set()
    assert seen["a"].logs == tuple(f"line {n}" for n in range(2500))
    assert seen["a"].processed == {f"bull:p:{n}": [n] for n in range(1500)}
    assert seen["a"].ignored == {"bull:p:x": "went wrong"}
    assert seen["b"].logs == ()


async def test_without_that_argument_nothing_more_is_read(redis_url: str, raw: redis.Redis) -> None:
    async with place(redis_url, plugins=[Copier(), Reviewer()]) as here:
        await here.queue.set(HOURLY)
        await here.finish("a")
        raw.rpush("bull:q:a:logs", "line")
        raw.config_resetstat()
        await here.sweep("2h")
        assert await here.kept() == set()
        stats: Any = raw.info("commandstats")
        assert "cmdstat_lrange" not in stats


# Flows


async def test_how_far_a_flow_has_got(redis_url: str, raw: redis.Redis) -> None:
    told: dict[str, FlowState] = {}

    class Asking:
        @hookimpl
        async def toril_review_removal(self, due: Sequence[Due], flows: Flows) -> Verdicts:
            for each in due:
                told[each.job.name] = await flows(each.job)
            return None

    async with place(redis_url, plugins=[Asking()]) as here:
        await here.queue.set(HOURLY)
        leaf = Flow("q", "leaf", 1)
        broken = Flow("q", "fail", 1, on_failure="ignore")
        await here.app.add_flow(
            Flow("other", "root", children=[Flow("q", "middle", children=[leaf, broken])])
        )
        await here.finish("alone")
        await here.run()
        ids = {job.name: job.id async for job in here.queue.jobs("completed", "failed")}
        await here.sweep("2h")
        [root] = [job.id async for job in here.app.queue("other").jobs("waiting")]
        assert told["do"] == FlowState(told["do"].root, settled=True, failed=())
        assert told["do"].root.id == "alone"
        for name in ("leaf", "middle"):
            assert not told[name].settled, "the root has not run"
            assert told[name].failed == (f"q/{ids['fail']}",)
            assert (told[name].root.queue, told[name].root.id) == ("other", root)


# Required plugins


async def test_nothing_goes_where_a_required_plugin_is_missing(
    redis_url: str, raw: redis.Redis, caplog: pytest.LogCaptureFixture
) -> None:
    async with place(redis_url) as here:
        await here.queue.set(Requires("Theirs"))
        await here.queue.set(Retention(completed=1, failed="1h"))
        await here.finish("a", "b")
        await here.finish("n", settings=[Retention(completed=Keep.nothing())])
        await here.finish("f", name="fail")
        with pytest.raises(GiveWay, match="Theirs"):
            await here.sweep("2h")
        assert await here.kept() == {"a", "b", "n"}
        assert await here.kept("failed") == {"f"}
        assert "Theirs" in caplog.text

    class Theirs:
        pass

    async with place(redis_url, plugins=[Theirs()]) as here:
        here.clock.advance("1d")
        for _ in range(2):
            await here.sweep("1m")
        assert await here.kept() == {"b"}
        assert await here.kept("failed") == set()


# Report only


async def test_report_only_removes_nothing_and_counts(
    redis_url: str, raw: redis.Redis, caplog: pytest.LogCaptureFixture
) -> None:
    config = {"cleanup": {"report_only": True}}
    async with place(redis_url, config=config) as here:
        await here.queue.set(Retention(completed=1, failed="1h"))
        await here.finish("a", "b", "c")
        await here.finish("f", name="fail")
        await here.finish("o", settings=[Retention(completed="1h")])
        await here.finish("n", settings=[Retention(completed=Keep.nothing())])
        with caplog.at_level(logging.INFO, "toril.cleanup"):
            await here.sweep("2h")
            await here.sweep("1m")
        assert await here.kept() == {"a", "b", "c", "o", "n"}
        assert await here.kept("failed") == {"f"}
        told = [each.message for each in caplog.records if "report_only" in each.message]
        only = (
            "queue q, report_only: would remove now: 2 completed by the queue's rule, "
            "2 completed by rules of their own, 1 failed by the queue's rule"
        )
        assert told == [only]
        assert {
            (each.labels["outcome"], each.labels["by"]): each.value
            for each in here.app.metrics()
            if each.name == "toril_would_remove" and each.value
        } == {
            ("completed", "the queue's rule"): 2,
            ("completed", "rules of their own"): 2,
            ("failed", "the queue's rule"): 1,
        }
    async with place(redis_url) as here:
        here.clock.advance("1d")
        await here.sweep()
        assert await here.kept() == {"c"}
        assert await here.kept("failed") == set()


# Counters


async def test_what_is_counted(redis_url: str, raw: redis.Redis) -> None:
    async with place(redis_url) as here:
        await here.queue.set(Retention(completed=1))
        await here.finish("a", "b", "c")
        await here.finish("o", settings=[Retention(completed="1h")])
        await here.sweep("2h")
        found = {
            (each.name, each.labels.get("by")): each.value
            for each in here.app.metrics()
            if each.name == "toril_removed_total"
        }
        assert found == {("toril_removed_total", "queue"): 2, ("toril_removed_total", "job"): 1}
        gauges = {each.name: each.value for each in here.app.metrics()}
        assert gauges["toril_sweep_lag_seconds"] == pytest.approx(3600, abs=5)
        assert gauges["toril_longest_script_ms"] > 0


def test_what_cannot_be_said() -> None:
    postpone: Any = Postpone
    rewrite: Any = Rewrite
    with pytest.raises(ValueError, match="a second"):
        Postpone("10ms", "too soon")
    with pytest.raises(TypeError):
        postpone(10, "no unit")
    with pytest.raises(TypeError):
        rewrite(Keep.forever())


async def test_foreign_jobs_are_asked_about_reviewed_and_copied(
    redis_url: str, raw: redis.Redis
) -> None:
    reviewer, copier = Reviewer(), Copier()
    async with place(redis_url, plugins=[reviewer, copier]) as here:
        now = here.clock.now_ms()
        foreign_finish(raw, "x", at=now, opts={"removeOnComplete": {"age": 3600}}, data=[1])
        foreign_finish(raw, "y", at=now, opts={"removeOnComplete": True})
        foreign_finish(raw, "z", at=now)
        await here.sweep("5s")
        assert await here.kept() == {"x", "z"}
        await here.sweep("2h")
        assert await here.kept() == {"z"}
        assert copier.copied == ["y", "x"]
        assert [each.keep for each in reviewer.due] == [Keep.nothing(), Keep("1h")]


async def test_while_a_copier_is_broken_decisions_are_made_all_the_same(
    redis_url: str, raw: redis.Redis
) -> None:
    copier = Copier()
    copier.broken = {"a", "b"}
    async with place(redis_url, plugins=[copier]) as here:
        await here.queue.set(Retention(completed="1h"))
        await here.finish("a", "b")
        here.clock.advance("2h")
        now = here.clock.now_ms()
        foreign_finish(raw, "x", at=now, opts={"removeOnComplete": False})
        foreign_finish(raw, "y", at=now, opts={"removeOnComplete": {"count": 1}})
        await here.sweep()
        assert copier.calls == [2], "nothing more is handed over in this sweep"
        assert entries(raw)["own:completed"] == ["x", "y"]
        assert await here.kept() == {"a", "b", "x", "y"}


@pytest.mark.parametrize("garbled", [b"\xc1", b"\x05", b"\x80"])
async def test_a_decision_that_somebody_has_garbled_is_reviewed_too(
    redis_url: str, raw: redis.Redis, garbled: bytes
) -> None:
    reviewer = Reviewer()
    async with place(redis_url, plugins=[reviewer]) as here:
        await here.finish("a", settings=[HOURLY])
        raw.hset("bull:q:toril:cleanup:rule:completed", "a", garbled)
        await here.sweep("2h")
        assert await here.kept() == set()
        assert [(each.keep, each.rule) for each in reviewer.due] == [(Keep.forever(), "unknown")]


async def test_who_could_not_say_how_long_a_job_is_kept(redis_url: str) -> None:
    class Undecided:
        @hookimpl
        def toril_plan_retention(self, job: FinishedJob) -> Keep | None:
            raise LookupError("no such customer")

    async with place(redis_url, plugins=[Undecided()]) as here:
        await here.finish("a")
        await here.sweep()
        job = await here.queue.get("a")
        assert job is not None
        told = " ".join(fact.text for fact in await job.explain())
        assert "undecided, as plugin Undecided could not answer" in told


async def test_a_sweeper_that_lost_its_lease_while_it_copied_removes_nothing(
    redis_url: str, raw: redis.Redis
) -> None:
    class Slow(Copier):
        @hookimpl
        async def toril_before_removal(self, jobs: Sequence[FinishedJob]) -> None:
            raw.set("bull:q:toril:lease:sweep", "another process")

    async with place(redis_url, plugins=[Slow()]) as here:
        await here.queue.set(HOURLY)
        await here.finish("a")
        await here.sweep("2h")
        assert await here.kept() == {"a"}
        raw.delete("bull:q:toril:lease:sweep")


async def test_a_held_job_is_not_shown(redis_url: str) -> None:
    reviewer = Reviewer()
    async with place(redis_url, plugins=[reviewer]) as here:
        await here.queue.set(HOURLY)
        await here.finish("a", "b")
        await here.queue.set(Holds(Hold(id="a", why="a case", who="legal")))
        for _ in range(2):
            await here.sweep("2h")
        assert reviewer.shown == [["b"]]
        assert await here.kept() == {"a"}


async def test_jobs_that_may_not_go_are_counted(redis_url: str) -> None:
    async with place(redis_url) as here:
        await here.queue.set(HOURLY)
        await here.app.add_flow(Flow("other", "top", children=[Flow("q", "fail", 1)]))
        await here.run()
        await here.sweep("2h")
        assert len(await here.kept("failed")) == 1
        [sample] = [each for each in here.app.metrics() if each.name == "toril_parked_total"]
        assert (sample.labels["why"], sample.value) == ("blocked", 1)
