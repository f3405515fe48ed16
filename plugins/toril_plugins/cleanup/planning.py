"""Making plans: reading what is there, in small steps, and asking the strategies."""

from __future__ import annotations

import time
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final, TypeVar, cast

from toril import PluginError, Said
from toril.plugins import FinishedJob, JobSnapshot, Json, Outcome, PluginContext
from toril_plugins.cleanup.deciding import Decider
from toril_plugins.cleanup.forecast import Fate, Forecast, Looked, decoded
from toril_plugins.cleanup.slices import rest
from toril_plugins.retention.foreign import Foreign
from toril_plugins.retention.holds import Holds
from toril_plugins.retention.planning import DAY_MS, Going, Plan, Staying, merge, world_of
from toril_plugins.retention.requires import Requires
from toril_plugins.retention.values import OUTCOMES, Ceiling, IdWindow, Keep, Retention

S = TypeVar("S", Retention, Ceiling)

PAGE: Final = 100
SAMPLE: Final = 20
"""Ids that are named for each rule."""
WEIGHED: Final = 50
"""Jobs of each outcome whose bytes are counted."""
WORLD: Final = (Retention, Ceiling, Holds, Requires, Foreign, IdWindow)
OWN: Final = "decisions of their own"


@dataclass(frozen=True, slots=True)
class Means:
    """What the plugin plans with.

    `world` is what a plan rests on beside what is said: the options and strategies, by name.
    """

    context: PluginContext
    decider: Decider
    world: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Rules:
    """What holds for a queue: per outcome a rule and its words, and both as they are projected."""

    live: Mapping[Outcome, tuple[Keep, str]]
    ceiling: Mapping[Outcome, tuple[Keep, str]]
    projected: Mapping[str, Mapping[str, str]]


class QueuePlanner:
    """See `toril_plugins.retention.planning.Planner`.

    Args:
        means: what the plugin plans with, once it has been started.
    """

    def __init__(self, means: Callable[[], Means]) -> None:
        self._means = means

    async def plan(self, queue: str, settings: Sequence[Retention | Ceiling], most: int, /) -> Plan:
        """Make a plan; see `toril_plugins.retention.planning.plan`."""
        return await _Planning(self._means(), queue, most).plan(settings)


@dataclass(frozen=True, slots=True)
class _Planning:
    means: Means
    queue: str
    most: int

    async def plan(self, settings: Sequence[Retention | Ceiling]) -> Plan:
        world = await self._world()
        rules = await self._rules(settings)
        figures = await self._figures(rules, ahead=0)
        later = await self._figures(rules, ahead=DAY_MS)
        going: list[Going] = []
        staying: list[Staying] = []
        looked = 0
        for outcome in OUTCOMES:
            jobs, whole = await self._look(outcome, rules)
            looked += len(jobs)
            forecast = _forecast(
                self.means.context.now_ms(), outcome, jobs, rules, figures[outcome]
            )
            fates = list(forecast.fates())
            found = _summed(outcome, forecast, fates)
            if not whole:
                asking = self.means.decider.ask is not None
                found = _beyond_the_sample(
                    found, forecast, fates, figures[outcome], later[outcome], asking=asking
                )
                found += _of_their_own(outcome, figures[outcome], later[outcome])
            going += await self._weighed(outcome, found)
            staying += _staying(outcome, forecast, fates, figures[outcome])
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
            staying=tuple(staying),
            missing=str(figures.get("missing") or ""),
            world=world,
        )

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

    async def _look(self, outcome: Outcome, rules: Rules) -> tuple[list[Looked], bool]:
        """The oldest jobs, and whether those are all."""
        jobs: list[Looked] = []
        place: dict[str, Json] = {"after": "-inf", "skip": 0}
        rule = rules.projected["rules"][outcome]
        while len(jobs) < self.most:
            page = await self._run(
                "sample",
                outcome=outcome,
                rule=rule,
                most=min(PAGE, self.most - len(jobs)),
                **place,
            )
            jobs += await self._decided(outcome, page["jobs"])
            place = {"after": page["after"], "skip": page["skip"]}
            if not page["more"]:
                return jobs, True
        return jobs, False

    async def _decided(self, outcome: Outcome, rows: Sequence[Sequence[Any]]) -> list[Looked]:
        """The jobs of a page, once those have been asked who would be."""
        jobs: list[Looked] = []
        ask: list[str] = []
        for job_id, finished_on, own, stored, at, numbered, said, held, awaited, bucket in rows:
            decision = decoded(stored) if stored else None
            job = Looked(
                job_id, finished_on, decision, own, at or None, bool(stored and stored.get("over")),
                numbered, held=held, awaited=awaited, bucket=bucket,
            )  # fmt: skip
            if decision is None and (said or self.means.decider.ask is not None):
                ask.append(job_id)
            jobs.append(job)
        snapshots = dict(zip(ask, await self.means.context.jobs(self.queue, ask), strict=True))
        return [self._asked(outcome, job, snapshots.get(job.id)) for job in jobs]

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
    now: int, outcome: Outcome, jobs: Sequence[Looked], rules: Rules, figures: Mapping[str, Any]
) -> Forecast:
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
    )


def _summed(outcome: Outcome, forecast: Forecast, fates: Sequence[Fate]) -> list[Going]:
    now: Counter[str] = Counter()
    day: Counter[str] = Counter()
    sample: defaultdict[str, list[str]] = defaultdict(list)
    for fate in fates:
        if fate.at is None or fate.at > forecast.day or fate.why_not:
            continue
        day[fate.rule] += 1
        now[fate.rule] += fate.at <= forecast.now
        if fate.at <= forecast.now and len(sample[fate.rule]) < SAMPLE:
            sample[fate.rule].append(fate.job.id)
    return [
        Going(outcome, rule, now[rule], within, 0, exact=True, sample=tuple(sample[rule]))
        for rule, within in day.items()
    ]


def _beyond_the_sample(
    found: Sequence[Going],
    forecast: Forecast,
    fates: Sequence[Fate],
    now: Mapping[str, Any],
    later: Mapping[str, Any],
    *,
    asking: bool,
) -> list[Going]:
    """The counts for all jobs, of which the oldest were looked at, by what the indexes say."""
    words = {rule[1] for rule in (forecast.live, forecast.ceiling) if rule is not None}
    going = [each for each in found if each.rule in words or each.rule.startswith("plugin ")]
    totals: dict[str, tuple[int, int]] = {}
    if forecast.live is not None:
        totals[forecast.live[1]] = (_total(now), _total(later))
    if forecast.ceiling is not None:
        crowded = now.get("crowded", 0)
        totals[forecast.ceiling[1]] = (
            max(now.get("capped", 0), crowded), max(later.get("capped", 0), crowded),
        )  # fmt: skip
    return [
        _extended(each, forecast, fates, totals.get(each.rule), asking=asking) for each in going
    ]


def _total(figures: Mapping[str, Any]) -> int:
    return int(max(figures["aged"], figures["excess"]))


def _extended(
    each: Going,
    forecast: Forecast,
    fates: Sequence[Fate],
    total: tuple[int, int] | None,
    *,
    asking: bool,
) -> Going:
    """One rule's count, for all jobs; `total`: of now and of a day from now, by the indexes."""
    live = forecast.live[0] if forecast.live else Keep.forever()
    if total is None or live.key is not None or live.first is not None:
        share = forecast.finished / max(1, len(fates))
        return replace(
            each,
            now=round(each.now * share),
            within_day=round(each.within_day * share),
            exact=False,
        )
    mine = [fate for fate in fates if fate.rule == each.rule and fate.at is not None]
    due = sum(1 for fate in mine if fate.at is not None and fate.at <= forecast.now)
    soon = sum(1 for fate in mine if fate.at is not None and fate.at <= forecast.day)
    exact = not asking and each.now == due and each.within_day == soon
    return replace(
        each,
        now=each.now if due == total[0] else round(total[0] * each.now / max(1, due)),
        within_day=(
            each.within_day
            if soon == total[1]
            else round(total[1] * each.within_day / max(1, soon))
        ),
        exact=exact or (due == total[0] and soon == total[1]),
    )


def _of_their_own(
    outcome: Outcome, now: Mapping[str, Any], later: Mapping[str, Any]
) -> list[Going]:
    """Jobs with a decision of their own, whichever it is: what the indexes by time say."""
    due, soon = now["at"] + now["nth"], later["at"] + later["nth"]
    if not soon:
        return []
    return [Going(outcome, OWN, due, soon, 0, exact=False)]


def _staying(
    outcome: Outcome, forecast: Forecast, fates: Sequence[Fate], figures: Mapping[str, Any]
) -> list[Staying]:
    reasons = Counter(
        fate.why_not
        for fate in fates
        if fate.why_not and fate.at is not None and fate.at <= forecast.day
    )
    undecided = sum(1 for fate in fates if fate.job.undecided)
    if undecided:
        reasons["a plugin broke when it was asked"] = undecided
    if figures["held"]:
        reasons["it is held"] += figures["held"]
    return [Staying(outcome, why, count) for why, count in sorted(reasons.items())]
