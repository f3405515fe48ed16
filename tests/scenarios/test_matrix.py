"""Every row of the truth table, finished by everybody who can finish a job."""

from __future__ import annotations

import functools
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from typing import Literal

import pytest

from tests.scenarios.matrix import FOREVER, NOTHING, ROWS, End, Moment, Row, Says
from tests.scenarios.stage import OPTION, Stage, retention, steps
from toril import App, Flow, Job
from toril.plugins import Outcome
from toril_plugins import Ceiling, Foreign, Keep, Requires

QUEUE = "p"


@dataclass(frozen=True, slots=True)
class Hand:
    """Who finishes the job, and how.

    `worker`: the library whose worker serves the job's queue. `levels`: how many levels of jobs
    there are below it, of which the lowest fails. `child`: the library whose workers serve them.
    """

    name: str
    column: Literal["toril", "bullmq", "script"]
    worker: str
    outcomes: tuple[Outcome, ...] = ("failed",)
    child: str | None = None
    levels: int = 0
    makes: str | None = None
    """The library whose worker has added it, if it is a run of a schedule."""
    stalled: bool = False
    rescued: bool = False
    """Whether a worker serves only the lowest queue, so that the jobs above are rescued."""

    def end(self, row: Row) -> End | None:
        """What the row says; None: nothing, or not of that hand."""
        if self.keeps_child and row.says.flow == NOTHING:
            return None  # see `impossible.STRANDED`
        ends: dict[str, End | None] = {
            "toril": row.toril,
            "bullmq": row.bullmq,
            "script": row.script,
        }
        return ends[self.column]

    @property
    def keeps_child(self) -> bool:
        """Whether the child must be there for the rescue, which finds the parent by it."""
        return self.rescued and self.child != "toril"


BOTH: tuple[Outcome, ...] = ("completed", "failed")
HANDS = (
    Hand("Toril", "toril", "toril", BOTH),
    Hand("Toril, stalled", "toril", "toril", stalled=True),
    Hand("Toril, for a child", "toril", "toril", child="toril", levels=1),
    Hand("Toril, for a grandchild", "toril", "toril", child="toril", levels=2),
    Hand("Toril, for a great-grandchild", "toril", "toril", child="toril", levels=3),
    Hand("Toril, for a child of Node 6", "toril", "toril", child="node", levels=1),
    Hand("Toril, for a child of Python", "toril", "toril", child="python", levels=1),
    *(
        Hand(
            f"a rescue, for a child of {name}", "toril", "toril", child=name, levels=1, rescued=True
        )
        for name in ("toril", "node", "node5", "python")
    ),
    *(
        Hand(
            f"a rescue, for a grandchild of {name}",
            "toril",
            "toril",
            child=name,
            levels=2,
            rescued=True,
        )
        for name in ("toril", "node")
    ),
    Hand("Node 6", "bullmq", "node", BOTH),
    Hand("Node 6, stalled", "bullmq", "node", stalled=True),
    Hand("Node 6, for a child of Toril", "bullmq", "node", child="toril", levels=1),
    Hand("Node 6, for a grandchild of Toril", "bullmq", "node", child="toril", levels=2),
    Hand("Node 5", "bullmq", "node5", BOTH),
    Hand("Node 5.45.2", "bullmq", "node5452", BOTH),
    Hand("Python", "bullmq", "python", BOTH),
    Hand("Python, stalled", "bullmq", "python", stalled=True),
    Hand("Python, for a child of Toril", "bullmq", "python", child="toril", levels=1),
    Hand("the script of a child of Node 5.45.2", "script", "toril", child="node5452", levels=1),
)
SCHEDULED = (
    Hand("Toril, made by Toril", "toril", "toril", BOTH, makes="toril"),
    Hand("Toril, made by Node 6", "toril", "toril", BOTH, makes="node"),
    Hand("Toril, made by Node 5.45.2", "toril", "toril", makes="node5452"),
    Hand("Toril, made by Python", "toril", "toril", makes="python"),
    Hand("Toril, stalled, made by Node 6", "toril", "toril", makes="node", stalled=True),
    Hand("Node 6, made by Toril", "bullmq", "node", makes="toril"),
    Hand("Node 6, made by Node 6", "bullmq", "node", BOTH, makes="node"),
    Hand("Node 5, made by Python", "bullmq", "node5", makes="python"),
    Hand("Python, made by Toril", "bullmq", "python", makes="toril"),
    Hand("Python, made by Python", "bullmq", "python", BOTH, makes="python"),
    Hand("Python, stalled, made by Toril", "bullmq", "python", makes="toril", stalled=True),
)
"""Who finishes the run of a schedule."""

CASES = [
    pytest.param(row, hand, outcome, end, id=f"{row.said} - {hand.name} {outcome}")
    for row in ROWS
    for hand in (SCHEDULED if row.says.scheduled_by else HANDS)
    if (end := hand.end(row)) is not None
    for outcome in hand.outcomes
]


@pytest.mark.parametrize(("row", "hand", "outcome", "end"), CASES)
async def test_row(stage: Stage, row: Row, hand: Hand, outcome: Outcome, end: End) -> None:
    scenario = Scenario(stage, row.says, hand, outcome, opposite_of(end))
    await scenario.say()
    stored = stage.options(QUEUE, scenario.job.id)
    assert stored.pop(OPTION[outcome], ...) == row.opts
    assert stored == scenario.options_of_other
    assert await scenario.play() == replace(end, impossible=None)
    assert scenario.announced == announced(end)


def opposite_of(end: End) -> Keep:
    """What the queue and the workers of the children say: it must not count for the parent."""
    return FOREVER if end.moment == "finish" else NOTHING


def announced(end: End) -> list[dict[str, str]]:
    """The events that tell of the removal: one of the job at a finish, one of all at a sweep."""
    if end.moment is None or end.rule is None:
        return []
    if end.moment in ("finish", "newer"):
        return [{"event": "removed", "rule": end.rule}]
    return [{"event": "toril:evicted"}]


class Scenario:
    """One case: the job is saved and finished, and then time passes until it is gone.

    `opposite`: what is said for the queues of the jobs below it.
    """

    def __init__(
        self, stage: Stage, says: Says, hand: Hand, outcome: Outcome, opposite: Keep
    ) -> None:
        self.stage = stage
        self.says = says
        self.hand = hand
        self.outcome: Outcome = outcome
        self.other: Outcome = "failed" if outcome == "completed" else "completed"
        self.theirs = retention(outcome, says.theirs)
        self.opposite = retention(outcome, opposite)
        self.announced: list[dict[str, str]] = []

    @property
    def options_of_other(self) -> dict[str, bool]:
        """What is stored about the other outcome."""
        if self.says.job_of_other is not None:
            return {OPTION[self.other]: self.says.job_of_other.is_nothing}
        keeping = (Requires, Foreign)
        if any(isinstance(guard, keeping) for guard in self.says.guards):
            return {OPTION[self.other]: False}
        return {}

    # -- saying ------------------------------------------------------------------------------------

    async def say(self) -> None:
        """Say everything, at every level, and add the job."""
        home = self.stage.app(*retention(self.outcome, self.says.application))
        if self.says.queue is not None:
            await home.queue(QUEUE).set(*retention(self.outcome, self.says.queue))
        if self.says.ceiling is not None:
            await home.queue(QUEUE).set(Ceiling(**{self.outcome: self.says.ceiling}))
        for guard in self.says.guards:
            await home.queue(QUEUE).set(guard)
            self.stage.gives_way |= isinstance(guard, Requires)
        for keep in self.says.workers:
            await self.stage.work("toril", QUEUE, *retention(self.outcome, keep), app=home)
        if self.says.application is not None and not self.says.workers:
            await self.stage.work("toril", QUEUE, app=home)
        self.job = await self._add(home)

    async def _add(self, home: App) -> Job:
        says = self.says
        own = retention(self.outcome, says.job) + retention(self.other, says.job_of_other)
        for_flow = retention(self.outcome, says.flow)
        data = steps(self.outcome)
        if says.scheduled_by is not None:
            assert self.hand.makes is not None
            template = retention(self.outcome, says.template)
            run = await self.stage.schedule(
                says.scheduled_by, QUEUE, data, template, self.hand.makes
            )
            job = await home.queue(QUEUE).get(run)
            assert job is not None
            return job
        if not (self.hand.levels or for_flow):
            return await home.queue(QUEUE).add("job", data, *own)
        below: list[Flow] = []
        for level in range(self.hand.levels, 0, -1):
            queue = _queue(level)
            node = Flow(queue, "child", data, children=below, on_child_failure="fail", id="below")
            below = [node]
        flow = Flow(QUEUE, "job", data, *own, children=below, on_child_failure="fail")
        return await home.add_flow(flow, *for_flow)

    # -- finishing ---------------------------------------------------------------------------------

    async def finish(self) -> None:
        """Let the job be finished by whose hand it is."""
        hand, stage = self.hand, self.stage
        if hand.stalled:
            stage.strand(QUEUE, self.job.id)
        elsewhere = stage.app(*self.opposite)
        for level in range(hand.levels, 0, -1):
            assert hand.child is not None
            if hand.rescued and level < hand.levels:
                await self.rescue(_queue(level + 1))
                continue
            says = self.theirs if hand.column == "script" and self.theirs else self.opposite
            if hand.keeps_child:
                says = ()
            await stage.work(hand.child, _queue(level), *says, app=elsewhere)
            own = retention(self.outcome, self.says.flow) or says
            goes = bool(own) and own[0].of(self.outcome) == NOTHING
            assert stage.state(_queue(level), "below") == ("gone" if goes else "failed")
        if hand.rescued:
            await self.rescue(_queue(1))
        elif hand.column != "script":
            await self.work_off()

    async def rescue(self, below: str) -> None:
        """Let what looks after that queue fail the parents of its failed jobs."""
        for later in ("1s", "61s"):
            await self.stage.sweep(below, later=later)

    async def work_off(self) -> None:
        """Let a worker of the job's own queue run what waits there."""
        theirs = () if self.hand.worker == "toril" else self.theirs
        await self.stage.work(self.hand.worker, QUEUE, *theirs)

    async def finish_another(self) -> None:
        """A newer job of the same queue and outcome, about which nothing is said."""
        self.stage.clock.advance("1m")
        own = retention(self.outcome, self.says.newer_job)
        await self.stage.away.queue(QUEUE).add("job", steps(self.outcome), *own)
        await self.work_off()

    # -- what becomes of it ------------------------------------------------------------------------

    async def play(self) -> End:
        """Let time pass until the job is gone."""
        sweep = functools.partial(self.stage.sweep, QUEUE)
        story: tuple[tuple[Moment, Callable[[], Awaitable[None]]], ...] = (
            ("finish", self.finish),
            ("sweep", sweep),
            ("newer", self.finish_another),
            ("newer, swept", sweep),
            ("59 minutes", functools.partial(sweep, later="57m 30s")),
            ("an hour", functools.partial(sweep, later="2m")),
            ("3 years", functools.partial(sweep, later="1095d")),
        )
        for moment, happen in story:
            before = len(self.stage.events(QUEUE))
            await happen()
            if self.stage.state(QUEUE, self.job.id) == "gone":
                end = End(moment, self.stage.removals.rules.get(self.job.id))
                self.announced = self._announced_after(before)
                if end.rule is None:  # a sweep finds that somebody else removed it
                    await sweep(later="11m")
                assert self.stage.leftovers(QUEUE, self.job.id) == []
                return end
            assert self.stage.state(QUEUE, self.job.id) == self.outcome
        return End(None, await self.stage.explained(QUEUE, self.job.id))

    def _announced_after(self, number: int) -> list[dict[str, str]]:
        return [
            {name: event[name] for name in ("event", "rule") if name in event}
            for event in self.stage.events(QUEUE)[number:]
            if event["event"] == "toril:evicted"
            or (event["event"] == "removed" and event["jobId"] == self.job.id)
        ]


def _queue(level: int) -> str:
    return f"below{level}"
