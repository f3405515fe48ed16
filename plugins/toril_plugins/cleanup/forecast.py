"""What the executor would do with jobs that were looked at; nothing here asks the server."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from toril_plugins.cleanup.deciding import Decision
from toril_plugins.cleanup.planned_flows import FlowFate
from toril_plugins.retention.keep import Keep
from toril_plugins.retention.planning import DAY_MS

NO_FLOW: Final = FlowFate()


@dataclass(frozen=True, slots=True)
class Looked:
    """A finished job, as a plan sees it.

    `decision`: what it follows instead of the live rule; `own`: it stands in the index of such
    jobs; `at`: when something happens next (ms); `over`: it was put off until then; `numbered`: its
    number has come; `undecided`: a plugin broke when it was asked; `held`: by what; `flow`: what
    becomes of the flow with which it is kept; `bucket`: in which the live rule counts it.
    """

    id: str
    finished_on: int
    decision: Decision | None = None
    own: bool = False
    at: int | None = None
    over: bool = False
    numbered: bool = False
    undecided: bool = False
    held: str = ""
    awaited: bool = False
    bucket: str = ""
    flow: FlowFate = NO_FLOW


@dataclass(frozen=True, slots=True)
class Fate:
    """When a job goes (ms; None: as far as anybody knows never), by which rule, what stops it."""

    job: Looked
    at: int | None
    rule: str
    why_not: str = ""


@dataclass(frozen=True, slots=True)
class Forecast:
    """What becomes of the oldest jobs of one outcome.

    `live` is the rule of the queue and `ceiling` its ceiling, each with its words, or None.
    `following` counts all jobs under the live rule, `finished` all that are not held, of which
    `jobs` are the oldest. `stripped`: by tier, until when it was done under the live rule.
    """

    now: int
    jobs: Sequence[Looked]
    live: tuple[Keep, str] | None
    ceiling: tuple[Keep, str] | None
    following: int
    finished: int
    stripped: Mapping[str, int]

    def fates(self) -> Iterator[Fate]:
        """The fate of each job, in their order."""
        by_count = self._going_by_count()
        for position, job in enumerate(self.jobs):
            if job.decision is not None:
                at, rule = self._own(job, job.decision, position), job.decision.rule
            else:
                at, rule = self._live(job, by_count)
            stays = job.flow.why_not
            if self.ceiling:
                keep, words = self.ceiling
                capped = _first(_aged(job, keep), self._beyond(position, keep.last, self.finished))
                if capped is not None and (stays or self._goes_before(capped, at, job)):
                    at, rule, stays = capped, words, ""
            yield Fate(job, at, rule, _obstacle(job) or stays)

    def _goes_before(self, capped: int, at: int | None, job: Looked) -> bool:
        """Whether the ceiling takes a job. A sweep takes first what has a time of its own."""
        if at is None:
            return True
        by_ceiling, by_rule = max(capped, self.now), max(at, self.now)
        return by_ceiling < by_rule or (by_ceiling == by_rule and job.decision is None)

    def _live(self, job: Looked, by_count: Mapping[str, bool]) -> tuple[int | None, str]:
        if self.live is None or job.undecided:
            return None, ""
        keep, words = self.live
        return _first(_aged(job, keep), self.now if job.id in by_count else None), words

    def _going_by_count(self) -> Mapping[str, bool]:
        """The jobs under the live rule that are too many."""
        if self.live is None:
            return {}
        keep, _ = self.live
        followers = [job for job in self.jobs if job.decision is None and not job.undecided]
        if keep.key is None and keep.first is None:
            excess = 0 if keep.last is None else max(0, self.following - keep.last)
            return {job.id: True for job in followers[:excess]}
        buckets: defaultdict[str, list[Looked]] = defaultdict(list)
        for job in followers:
            buckets[job.bucket].append(job)
        first, last = keep.first or 0, keep.last or 0
        between = [jobs[first : max(first, len(jobs) - last)] for jobs in buckets.values()]
        return {job.id: True for jobs in between for job in jobs}

    def _own(self, job: Looked, decision: Decision, position: int) -> int | None:
        keep = decision.keep
        if keep.flow:
            return job.flow.at
        if job.numbered:
            return self.now
        if job.over:
            return job.at
        if keep.is_nothing:
            return job.finished_on
        counted = keep.key is not None or keep.group is not None or keep.first is not None
        number = None if counted else self._beyond(position, keep.last, self.finished)
        return _first(_aged(job, keep), number)

    def _beyond(self, position: int, last: int | None, total: int) -> int | None:
        """Now, if so many are newer that a number is reached."""
        return self.now if last is not None and total - position > last else None

    def tiers(self, fates: Iterable[Fate]) -> Iterator[tuple[str, str, int]]:
        """Tiers that come before the job goes: which, by which rule, when."""
        for fate in fates:
            job = fate.job
            rule = (job.decision.keep, job.decision.rule) if job.decision else self.live
            if rule is None or job.held or job.undecided or (job.decision and job.over):
                continue
            keep, words = rule
            end = None if fate.why_not else fate.at
            for tier in ("logs", "data"):
                ms = keep.ms(tier)
                at = None if ms is None else max(self.now, job.finished_on + ms)
                done = job.decision is None and job.finished_on <= self.stripped.get(tier, -1)
                if at is not None and not done and (end is None or at < end):
                    yield tier, words, at

    @property
    def day(self) -> int:
        """A day from now."""
        return self.now + DAY_MS


def _aged(job: Looked, keep: Keep) -> int | None:
    return None if keep.age_ms is None else job.finished_on + keep.age_ms


def _first(*times: int | None) -> int | None:
    return min((time for time in times if time is not None), default=None)


def _obstacle(job: Looked) -> str:
    if job.held:
        return job.held
    if job.awaited:
        return "its parent waits for it"
    if job.undecided:
        return "a plugin broke when it was asked"
    return ""


def decoded(stored: Mapping[str, Any]) -> Decision | None:
    """A decision as a script stored it; None if somebody has to be asked."""
    rule = stored.get("rule")
    try:
        return None if not rule else Decision.decode(dict(stored), str(rule))
    except ValueError:
        return None
