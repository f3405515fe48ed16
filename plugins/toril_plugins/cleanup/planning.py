"""Making plans: reading what is there, in small steps, and asking the strategies."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final, TypeVar, cast

from toril import PluginError, Said
from toril.plugins import FinishedJob, JobSnapshot, Json, Outcome, PluginContext
from toril_plugins.cleanup.carrier import is_reporting
from toril_plugins.cleanup.deciding import Decider
from toril_plugins.cleanup.forecast import Forecast, Looked, decoded
from toril_plugins.cleanup.planned_flows import PlannedFlows
from toril_plugins.cleanup.slices import rest
from toril_plugins.cleanup.totals import (
    beyond_the_sample,
    of_their_own,
    standing_in_the_way,
    stripped,
    summed,
)
from toril_plugins.retention.carrying_out import REPORTING, REPORTING_HERE
from toril_plugins.retention.foreign import Foreign
from toril_plugins.retention.holds import Hold, Holds
from toril_plugins.retention.planning import (
    DAY_MS,
    Going,
    Plan,
    Staying,
    Stripping,
    merge,
    world_of,
)
from toril_plugins.retention.requires import Requires
from toril_plugins.retention.values import OUTCOMES, Ceiling, IdWindow, Keep, Retention

S = TypeVar("S", Retention, Ceiling)

PAGE: Final = 100
WEIGHED: Final = 50
"""Jobs of each outcome whose bytes are counted."""
WORLD: Final = (Retention, Ceiling, Holds, Requires, Foreign, IdWindow)


@dataclass(frozen=True, slots=True)
class Means:
    """What the plugin plans with.

    `world` is what a plan rests on beside what is said: the options and strategies, by name.
    `report_only`: this process removes nothing.
    """

    context: PluginContext
    decider: Decider
    world: Mapping[str, str]
    report_only: bool


@dataclass(frozen=True, slots=True)
class Rules:
    """What holds for a queue: per outcome a rule and its words, and both as they are projected."""

    live: Mapping[Outcome, tuple[Keep, str]]
    ceiling: Mapping[Outcome, tuple[Keep, str]]
    projected: Mapping[str, Mapping[str, str]]


@dataclass(frozen=True, slots=True)
class Sample:
    """The oldest jobs of an outcome; `whole`: these are all. `stripped`: see `Forecast`."""

    jobs: Sequence[Looked]
    whole: bool
    stripped: Mapping[str, int]


class QueuePlanner:
    """See `toril_plugins.retention.planning.Planner`.

    Args:
        means: what the plugin plans with, once it has been started.
    """

    def __init__(self, means: Callable[[], Means]) -> None:
        self._means = means

    async def plan(self, queue: str, settings: Sequence[Retention | Ceiling], most: int, /) -> Plan:
        """Make a plan; see `toril_plugins.retention.planning.plan`."""
        means = self._means()
        return await _Planning(means, queue, most, PlannedFlows(means.context)).plan(settings)


@dataclass(frozen=True, slots=True)
class _Planning:
    means: Means
    queue: str
    most: int
    flows: PlannedFlows
    holds: dict[str, Hold] = field(default_factory=dict[str, Hold])

    async def plan(self, settings: Sequence[Retention | Ceiling]) -> Plan:
        world = await self._world()
        rules = await self._rules(settings)
        figures = await self._figures(rules, ahead=0)
        later = await self._figures(rules, ahead=DAY_MS)
        going: list[Going] = []
        stripping: list[Stripping] = []
        staying: list[Staying] = []
        looked = 0
        for outcome in OUTCOMES:
            sample = await self._look(outcome, rules)
            looked += len(sample.jobs)
            forecast = _forecast(
                self.means.context.now_ms(), outcome, sample, rules, figures[outcome]
            )
            fates = list(forecast.fates())
            found = summed(outcome, forecast, fates)
            if not sample.whole:
                asking = self.means.decider.ask is not None
                found = beyond_the_sample(
                    found, forecast, fates, figures[outcome], later[outcome], asking=asking
                )
                found += of_their_own(outcome, figures[outcome], later[outcome])
            going += await self._weighed(outcome, found)
            stripping += stripped(outcome, forecast, fates, whole=sample.whole)
            held: Mapping[str, int] = {}
            if figures[outcome]["held"]:
                held = await self._held(outcome)
            staying += standing_in_the_way(outcome, forecast, fates, held)
        return Plan(
            queue=self.queue,
            made=self.means.context.now_ms(),
            sets={
                each.name: {o: str(keep) for o in OUTCOMES if (keep := each.of(o)) is not None}
                for each in settings
            },
            finished={outcome: figures[outcome]["finished"] for outcome in OUTCOMES},
            looked=looked,
            going=tuple(going),
            stripping=tuple(stripping),
            staying=tuple(staying),
            requires=", ".join(
                str(said.value) for said in await self.means.context.live(self.queue, Requires)
            ),
            missing=str(figures.get("missing") or ""),
            world=world,
            only_reported=self._only_reported(figures),
        )

    def _only_reported(self, figures: Mapping[str, Any]) -> str:
        if is_reporting(figures):
            return REPORTING
        return REPORTING_HERE if self.means.report_only else ""

    async def _run(self, script: str, **args: Json) -> Any:
        started = time.perf_counter()
        reply = await self.means.context.run_script(self.queue, script, dict(args))
        await rest(started)
        return reply

    async def _figures(self, rules: Rules, *, ahead: int) -> dict[str, Any]:
        """What the indexes say of now, or of a time to come."""
        args = cast("dict[str, Json]", {k: dict(v) for k, v in rules.projected.items()})
        return cast("dict[str, Any]", await self._run("figures", slack=-ahead, **args))

    async def _world(self) -> dict[str, str]:
        """What the plan rests on: it is void if any of it changes."""
        world = dict(self.means.world)
        for kind in WORLD:
            for said in await self.means.context.live(self.queue, kind):
                world[f"{kind.name} of the {said.level}"] = world_of(said.value)
            world.setdefault(f"{kind.name} of the queue", world_of(None))
        return world

    async def _rules(self, settings: Sequence[Retention | Ceiling]) -> Rules:
        live = await self._said(Retention, settings)
        ceiling = await self._said(Ceiling, settings)
        return Rules(
            {o: rule for o in OUTCOMES if (rule := _rule(live, o, "")) is not None},
            {
                o: rule
                for o in OUTCOMES
                if (rule := _rule(ceiling, o, "ceiling of the ")) is not None
            },
            {
                "rules": {o: Retention.project(live).get(o, "") for o in OUTCOMES},
                "ceilings": {o: Ceiling.project(ceiling).get(o, "") for o in OUTCOMES},
            },
        )

    async def _said(
        self, kind: type[S], settings: Sequence[Retention | Ceiling]
    ) -> Sequence[Said[S]]:
        """What would be said for the queue, most specific first."""
        said: Sequence[Any] = await self.means.context.live(self.queue, kind)
        for setting in settings:
            if isinstance(setting, kind):
                before = next((each.value for each in said if each.level == "queue"), None)
                new = Said(merge(setting, before), "queue", "plan", self.means.context.now_ms())
                said = (new, *[each for each in said if each.level != "queue"])
        return said

    async def _look(self, outcome: Outcome, rules: Rules) -> Sample:
        """The oldest jobs."""
        jobs: list[Looked] = []
        place: dict[str, Json] = {"after": "-inf", "skip": 0}
        rule = rules.projected["rules"][outcome]
        page: dict[str, Any] = {"more": True}
        while page["more"] and len(jobs) < self.most:
            page = await self._run(
                "sample",
                outcome=outcome,
                rule=rule,
                most=min(PAGE, self.most - len(jobs)),
                **place,
            )
            jobs += await self._decided(outcome, page["jobs"])
            place = {"after": page["after"], "skip": page["skip"]}
        stripped_until: dict[str, int] = {
            tier: page[tier] for tier in ("logs", "data") if page.get(tier)
        }
        return Sample(jobs, not page["more"], stripped_until)

    async def _held(self, outcome: Outcome) -> Mapping[str, int]:
        """The jobs that are held already, by what; the first of them, if they are many."""
        found: Counter[str] = Counter()
        for skip in range(0, self.most, PAGE):
            page = await self._run("sample", outcome=outcome, rule="", held=PAGE, skip=skip)
            found.update([await self._named(handles) for handles in page])
            if len(page) < PAGE:
                break
        return found

    async def _named(self, handles: str) -> str:
        """Holds in words, by their handles."""
        if not self.holds:
            for said in await self.means.context.live(self.queue, Holds):
                self.holds.update({one.handle: one for one in said.value.holds})
        found = [self.holds.get(each) for each in handles.split()]
        words = [f"{one.handle}: {one}, by {one.who}: {one.why}" for one in found if one]
        return f"it is held ({'; '.join(words) or 'until the next sweep'})"

    async def _decided(self, outcome: Outcome, rows: Sequence[Sequence[Any]]) -> list[Looked]:
        """The jobs of a page, once those have been asked who would be."""
        jobs: list[Looked] = []
        ask: list[str] = []
        for job_id, finished_on, own, stored, at, numbered, said, held, awaited, bucket in rows:
            decision = decoded(stored) if stored else None
            job = Looked(
                job_id, finished_on, decision, own, at or None, bool(stored and stored.get("over")),
                numbered, held=await self._named(held) if held else "", awaited=awaited,
                bucket=bucket,
            )  # fmt: skip
            if decision is None and (said or self.means.decider.ask is not None):
                ask.append(job_id)
            jobs.append(job)
        snapshots = dict(zip(ask, await self.means.context.jobs(self.queue, ask), strict=True))
        asked = [self._asked(outcome, job, snapshots.get(job.id)) for job in jobs]
        return [
            replace(job, flow=await self.flows.of(self.queue, job.id))
            if job.decision and job.decision.keep.flow
            else job
            for job in asked
        ]

    def _asked(self, outcome: Outcome, job: Looked, snapshot: JobSnapshot | None) -> Looked:
        if snapshot is None:
            return job
        finished = FinishedJob(self.queue, job.id, snapshot.fields, outcome, "foreign")
        try:
            return replace(job, decision=self.means.decider.decide(finished))
        except (PluginError, ValueError):
            return replace(job, undecided=True)

    async def _weighed(self, outcome: Outcome, found: Sequence[Going]) -> list[Going]:
        ids = [job_id for each in found if each.now for job_id in each.sample][:WEIGHED]
        if not ids:
            return list(found)
        weights = cast("list[int]", await self._run("sample", outcome=outcome, rule="", weigh=ids))
        one = sum(weights) / len(weights)
        return [replace(each, bytes=round(one * each.now)) for each in found]


def _rule(said: Sequence[Said[S]], outcome: Outcome, words: str) -> tuple[Keep, str] | None:
    for each in said:
        keep = each.value.of(outcome)
        if keep is not None:
            return keep, f"{words}{each.level}: {keep}"
    return None


def _forecast(
    now: int, outcome: Outcome, sample: Sample, rules: Rules, figures: Mapping[str, Any]
) -> Forecast:
    jobs = sample.jobs
    # Beside the index: jobs that get a decision when they are asked about, or lose theirs.
    asked = sum(
        (job.decision is not None) - job.own for job in jobs if not job.own or not job.decision
    )
    return Forecast(
        now,
        jobs,
        rules.live.get(outcome),
        rules.ceiling.get(outcome),
        figures["finished"] - figures["own"] - asked,
        figures["finished"] - figures["held"],
        sample.stripped,
    )
