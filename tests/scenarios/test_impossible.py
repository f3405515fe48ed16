"""What really happens where BullMQ makes impossible what was said.

These tests hold no promise of ours. When one fails, BullMQ has changed: then the row may leave
`impossible.ROWS` and the documentation.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import pytest

from tests.scenarios import matrix
from tests.scenarios.impossible import (
    HELD,
    OTHERS,
    RELEASED,
    RELEASED_BY_OTHERS,
    ROWS,
    RUN,
    STRANDED,
    STRATEGY,
    STRICTER,
    UNTOLD,
    Impossible,
)
from tests.scenarios.stage import Stage, steps
from tests.support.driver import ROOT
from toril import Flow, hookimpl
from toril.plugins import FinishedJob
from toril_plugins import Hold, Holds, Keep, Retention

F = TypeVar("F", bound=Callable[..., object])

NOTHING, FOREVER = Keep.nothing(), Keep.forever()
FOREIGN = pytest.mark.parametrize("foreign", ["node", "node5", "node5452", "python"])

documented: set[Impossible] = {
    end.impossible
    for row in matrix.ROWS
    for end in (row.toril, row.bullmq, row.script)
    if end is not None and end.impossible is not None
}


def documents(row: Impossible) -> Callable[[F], F]:
    """The test shows what happens in that row."""

    def note(test: F) -> F:
        documented.add(row)
        return test

    return note


def test_documentation_names_the_same_rows() -> None:
    page = (ROOT / "docs" / "retention.md").read_text(encoding="utf-8")
    _, _, section = page.partition("\n### Rows that are impossible\n")
    section, _, _ = section.partition("\n#")
    lines = [line for line in section.splitlines() if line.startswith("|")]
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    assert cells[0] == ["said", "finished by", "what happens", "why"]
    assert [Impossible(*each) for each in cells[2:]] == list(ROWS)


def test_every_row_is_shown() -> None:
    assert documented == set(ROWS)


@documents(STRICTER)
@FOREIGN
async def test_a_stricter_value_of_a_foreign_worker(stage: Stage, foreign: str) -> None:
    home = stage.app(Retention(failed="30d"))
    queue = home.queue("q")
    await queue.set(Retention(completed="30d"))
    await stage.work("toril", "q", app=home)
    good = await queue.add("good", steps("completed"))
    bad = await queue.add("bad", steps("failed"))
    await stage.work(foreign, "q", Retention(completed=NOTHING, failed=NOTHING))
    assert (stage.state("q", good.id), stage.state("q", bad.id)) == ("gone", "gone")


@documents(OTHERS)
@FOREIGN
@pytest.mark.parametrize("who", ["job", "worker"])
async def test_another_jobs_value_evicts(stage: Stage, foreign: str, who: str) -> None:
    queue = stage.away.queue("q")
    kept = await queue.add("kept", steps("completed"), Retention(completed=FOREVER))
    await stage.work("toril", "q")
    said = (Retention(completed=1),)
    own, theirs = (said, ()) if who == "job" else ((), said)
    newer = await queue.add("newer", steps("completed"), *own)
    await stage.work(foreign, "q", *theirs)
    assert stage.state("q", kept.id) == "gone"
    assert stage.state("q", newer.id) == "completed"


async def parent_and_failed_child(stage: Stage, *said: Retention) -> tuple[str, str]:
    """A parent in `p` that waits for a child in `q` that will fail; `said` for the child."""
    child = Flow("q", "child", steps("failed"), *said, id="child")
    parent = await stage.away.add_flow(Flow("p", "parent", steps("completed"), children=[child]))
    return parent.id, "child"


@documents(RELEASED)
@FOREIGN
async def test_a_removed_child_releases_its_parent(stage: Stage, foreign: str) -> None:
    parent, child = await parent_and_failed_child(stage, Retention(failed=NOTHING))
    await stage.work(foreign, "q")
    assert stage.state("q", child) == "gone"
    assert stage.state("p", parent) == "wait"
    await stage.work("toril", "p")
    assert stage.state("p", parent) == "completed"


@documents(RELEASED_BY_OTHERS)
@FOREIGN
async def test_a_child_evicted_by_another_job_releases_its_parent(
    stage: Stage, foreign: str
) -> None:
    parent, child = await parent_and_failed_child(stage, Retention(failed=FOREVER))
    await stage.work("toril", "q")
    assert (stage.state("q", child), stage.state("p", parent)) == ("failed", "waiting-children")
    await stage.away.queue("q").add("unrelated", steps("failed"), Retention(failed=1))
    await stage.work(foreign, "q")
    assert (stage.state("q", child), stage.state("p", parent)) == ("gone", "wait")


class KeepsAll:
    """A strategy that removes nothing."""

    @hookimpl
    def toril_plan_retention(self, job: FinishedJob) -> Keep | None:
        return FOREVER


@documents(STRATEGY)
@FOREIGN
@pytest.mark.parametrize("who", ["job", "worker"])
async def test_a_strategy_is_not_asked(stage: Stage, foreign: str, who: str) -> None:
    queue = stage.app(plugins=[KeepsAll()]).queue("q")
    said = (Retention(completed=NOTHING),)
    own, theirs = (said, ()) if who == "job" else ((), said)
    job = await queue.add("job", steps("completed"), *own)
    await stage.work(foreign, "q", *theirs)
    assert stage.state("q", job.id) == "gone"


@documents(UNTOLD)
@FOREIGN
async def test_a_removal_is_told_to_nobody(stage: Stage, foreign: str) -> None:
    job = await stage.away.queue("q").add("job", steps("completed"), Retention(completed=NOTHING))
    await stage.work(foreign, "q")
    await stage.sweep("q")
    assert stage.state("q", job.id) == "gone"
    assert stage.removals.rules == {}
    told = [event["event"] for event in stage.events("q") if event.get("jobId") == job.id]
    assert told[-1] == "completed"
    assert not {"removed", "toril:evicted"} & {event["event"] for event in stage.events("q")}


@documents(HELD)
@FOREIGN
async def test_a_held_job_that_is_not_to_be_kept(stage: Stage, foreign: str) -> None:
    queue = stage.away.queue("q")
    await queue.set(Holds(Hold(name="job")))
    job = await queue.add("job", steps("completed"), Retention(completed=NOTHING))
    await stage.work(foreign, "q")
    assert stage.state("q", job.id) == "gone"


@documents(STRANDED)
async def test_a_parent_whom_a_removed_child_fails(stage: Stage) -> None:
    for name, said in (("gone", NOTHING), ("there", FOREVER)):
        child = Flow("q", "child", steps("failed"), Retention(failed=said), on_failure="fail")
        flow = Flow("p", "parent", steps("completed"), children=[child], id=name)
        await stage.away.add_flow(flow)
    await stage.work("node", "q")
    for later in ("1s", "61s", "1h"):
        await stage.sweep("q", later=later)
        await stage.sweep("p")
    assert (stage.state("p", "gone"), stage.state("p", "there")) == ("wait", "failed")
    await stage.work("toril", "p")
    assert stage.state("p", "gone") == "failed"


@documents(RUN)
async def test_a_parent_that_must_fail_is_run(stage: Stage) -> None:
    child = Flow("q", "child", steps("failed"), on_failure="fail")
    said = Retention(completed=NOTHING, failed=FOREVER)
    flow = Flow("p", "parent", steps("completed"), said, children=[child])
    parent = await stage.away.add_flow(flow)
    await stage.work("toril", "q")
    await parent.refresh()
    assert parent.snapshot.deferred_failure is not None
    await stage.work("node5452", "p")
    assert stage.state("p", parent.id) == "gone"
    told = {event["event"] for event in stage.events("p")}
    assert ("completed" in told, "failed" in told) == (True, False)
