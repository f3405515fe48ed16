"""Which finished jobs of a queue are left after a sweep, by what was said: pure Python, no server.

It knows the levels, ages, counts and keys; it knows nothing of indexes, scripts or slices.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Hashable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Final, Literal

from toril.plugins import Outcome
from toril_plugins import Keep, Retention

OwnLevel = Literal["job", "flow"]
LiveLevel = Literal["queue", "worker", "application"]
OWN_LEVELS: Final[tuple[OwnLevel, ...]] = ("job", "flow")
LIVE_LEVELS: Final[tuple[LiveLevel, ...]] = ("queue", "worker", "application")
OUTCOMES: Final[tuple[Outcome, ...]] = ("completed", "failed")


@dataclass(slots=True)
class Ended:
    """A job that has ended. `number`: how many of its outcome had ended by Toril when this end was
    recorded; None: a foreigner ended it, and no sweep has recorded it yet."""

    id: str
    outcome: Outcome
    name: str
    customer: str
    finished_on: int
    own: dict[OwnLevel, Retention] = field(default_factory=dict[OwnLevel, Retention])
    number: int | None = None

    def said(self) -> tuple[str, Keep] | None:
        """Who said what for this job itself, and the value; None: nobody."""
        for level in OWN_LEVELS:
            value = self.own.get(level)
            keep = None if value is None else value.of(self.outcome)
            if keep is not None:
                return level, keep
        return None

    def bucket(self, keep: Keep) -> Hashable:
        """With whom it is counted together."""
        return {"name": self.name, "data.customer": self.customer}.get(keep.key or "")


@dataclass(frozen=True, slots=True)
class Verdict:
    """The ids that must be gone after a sweep, and those that may be: these among them."""

    must: set[str]
    may: set[str]


class Kept:
    """The finished jobs that are left, and what is said for their queue."""

    def __init__(self) -> None:
        self.jobs: dict[str, Ended] = {}
        self.live: dict[LiveLevel, Retention] = {}
        self._ends: Counter[Outcome] = Counter()

    def ended(self, job: Ended, *, by_toril: bool) -> None:
        """The job has ended just now."""
        if by_toril:
            self._ends[job.outcome] += 1
            job.number = self._ends[job.outcome]
        self.jobs[job.id] = job

    def sweep(self, now: int, *, thorough: bool) -> Verdict:
        """What a sweep at `now` does. `thorough`: it also looks at what was recorded long ago."""
        must: set[str] = set()
        may: set[str] = set()
        for outcome in OUTCOMES:
            jobs = [job for job in self.jobs.values() if job.outcome == outcome]
            must |= {job.id for job in self._due(outcome, jobs, now)}
            may |= self._crowded_out(outcome, jobs)
            # By the numbers nobody knows of foreign ends: a thorough sweep counts what is there.
            for job in jobs:
                last = self._own_count(job)
                if last is None or not thorough:
                    continue
                newer = {other.id for other in jobs if other.finished_on > job.finished_on}
                if len(newer) >= last:
                    may.add(job.id)
                if len(newer - must) >= last and job.number is not None:
                    must.add(job.id)
        for job in self.jobs.values():
            if job.number is None:
                job.number = self._ends[job.outcome]
        return Verdict(must, may | must)

    def _crowded_out(self, outcome: Outcome, jobs: list[Ended]) -> set[str]:
        """Jobs that a finish by Toril may have taken for too many: until a sweep records it, a
        foreigner's job that has a rule of its own counts among those of the live rule."""
        rule = self._rule(outcome)
        if rule is None or rule.last is None or rule.key is not None:
            return set()
        counted = [job for job in jobs if job.said() is None or job.number is None]
        counted.sort(key=lambda job: job.finished_on)
        return {job.id for job in counted[: max(0, len(counted) - rule.last)] if not job.said()}

    def _own_count(self, job: Ended) -> int | None:
        """The number of newer jobs after which it goes, if that was said for the job itself."""
        said = job.said()
        return None if said is None or said[1].key is not None else said[1].last

    def _due(self, outcome: Outcome, jobs: list[Ended], now: int) -> list[Ended]:
        due: list[Ended] = []
        together: defaultdict[Hashable, list[tuple[Ended, Keep]]] = defaultdict(list)
        for job in jobs:
            said = job.said()
            keep = self._rule(outcome) if said is None else said[1]
            if keep is None or keep.is_forever:
                continue
            if keep.is_nothing or (
                keep.age_ms is not None and now - job.finished_on >= keep.age_ms
            ):
                due.append(job)
            elif keep.last is None:
                continue
            elif said is not None and keep.key is None:
                if job.number is not None and self._ends[outcome] - job.number >= keep.last:
                    due.append(job)
            else:
                together[said, job.bucket(keep)].append((job, keep))
        return [*due, *_too_many(together.values())]

    def _rule(self, outcome: Outcome) -> Keep | None:
        for level in LIVE_LEVELS:
            value = self.live.get(level)
            keep = None if value is None else value.of(outcome)
            if keep is not None:
                return keep
        return None


def _too_many(buckets: Iterable[list[tuple[Ended, Keep]]]) -> Iterator[Ended]:
    """All but the newest of each bucket."""
    for bucket in buckets:
        bucket.sort(key=lambda each: (each[0].finished_on, each[0].id))
        last = bucket[0][1].last or 0
        for job, _ in bucket[: max(0, len(bucket) - last)]:
            yield job
