"""Which finished jobs of a queue are left after a sweep, by what was said: pure Python, no server.

It knows the levels, ages, counts, keys, ceilings, holds and required plugins; it knows nothing of
indexes, scripts or slices.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Hashable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Final, Literal

from toril.plugins import Outcome
from toril_plugins import Ceiling, Keep, Retention

OwnLevel = Literal["job", "flow", "template"]
LiveLevel = Literal["queue", "worker", "application"]
OWN_LEVELS: Final[tuple[OwnLevel, ...]] = ("job", "flow", "template")
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
    """The finished jobs that are left, and what is said for their queue.

    `held`: the names of jobs that are held; `required`: a plugin is required that nobody has.
    """

    def __init__(self) -> None:
        self.jobs: dict[str, Ended] = {}
        self.live: dict[LiveLevel, Retention] = {}
        self.ceiling: Ceiling | None = None
        self.held: frozenset[str] = frozenset()
        self.required = False
        self._ends: Counter[Outcome] = Counter()

    def hold(self, names: frozenset[str]) -> None:
        """Hold the jobs of these names. What is released is recorded anew."""
        for job in self.jobs.values():
            if job.name in self.held - names:
                job.number = None
        self.held = names

    def ended(self, job: Ended, *, by_toril: bool) -> None:
        """The job has ended just now. One that is held counts for nobody."""
        if by_toril and job.name not in self.held:
            self._ends[job.outcome] += 1
            job.number = self._ends[job.outcome]
        self.jobs[job.id] = job

    def sweep(self, now: int, *, thorough: bool) -> Verdict:
        """What a sweep at `now` does. `thorough`: it also looks at what was recorded long ago."""
        if self.required:
            return Verdict(set(), set())
        must: set[str] = set()
        may: set[str] = set()
        for outcome in OUTCOMES:
            every = [job for job in self.jobs.values() if job.outcome == outcome]
            jobs = [job for job in every if job.name not in self.held]
            due = self._due(outcome, jobs, now)
            must |= {job.id for job in due if not self._may_move_up(job)}
            may |= {job.id for job in due} | self._crowded_out(outcome, every)
            may |= {job.id for job in jobs if self._may_move_up(job)}
            # By the numbers nobody knows of foreign ends: a thorough sweep counts what is there.
            for job in jobs:
                last = self._own_count(job)
                if last is None or not thorough:
                    continue
                newer = [other for other in every if other.finished_on > job.finished_on]
                if len(newer) >= last:
                    may.add(job.id)
                sure = [other for other in newer if other in jobs and other.id not in may]
                if len(sure) >= last and job.number is not None:
                    must.add(job.id)
            may |= must
            unseen = [job for job in every if job.name in self.held and job.number is None]
            self._apply_ceiling(outcome, jobs, unseen, now, must, may)
        for job in self.jobs.values():
            if job.number is None:
                job.number = self._ends[job.outcome]
        return Verdict(must, may | must)

    def _apply_ceiling(
        self,
        outcome: Outcome,
        jobs: list[Ended],
        unseen: list[Ended],
        now: int,
        must: set[str],
        may: set[str],
    ) -> None:
        """`unseen`: jobs that are held, which nobody knows before a sweep has seen them."""
        ceiling = self._ceiling(outcome)
        if ceiling is None:
            return
        if ceiling.age_ms is not None:
            must |= {job.id for job in jobs if now - job.finished_on >= ceiling.age_ms}
            may |= must
        if ceiling.last is None:
            return
        jobs.sort(key=lambda job: job.finished_on, reverse=True)
        sure = [job for job in jobs if job.id not in may]
        must |= {job.id for job in sure[ceiling.last :]}
        # A finish counts also those that go by other rules before long, and those unseen.
        counted = sorted([*jobs, *unseen], key=lambda job: job.finished_on, reverse=True)
        may |= {job.id for job in counted[ceiling.last :] if job in jobs} | must

    def _may_move_up(self, job: Ended) -> bool:
        """Whether its place is not sure: a ceiling takes the first of a bucket, and others become
        the first, at once or by and by."""
        said = job.said()
        keep = self._rule(job.outcome) if said is None else said[1]
        return self._ceiling(job.outcome) is not None and keep is not None and bool(keep.first)

    def _ceiling(self, outcome: Outcome) -> Keep | None:
        return None if self.ceiling is None else self.ceiling.of(outcome)

    def _crowded_out(self, outcome: Outcome, jobs: list[Ended]) -> set[str]:
        """Jobs that a finish by Toril may have taken for too many: until a sweep records it, a
        foreigner's job that has a rule of its own, or is held, counts among those of the live
        rule."""
        rule = self._rule(outcome)
        if rule is None or rule.last is None or is_bucketed(rule):
            return set()
        counted = [
            job
            for job in jobs
            if job.number is None or (job.said() is None and job.name not in self.held)
        ]
        counted.sort(key=lambda job: job.finished_on)
        crowded = counted[: max(0, len(counted) - rule.last)]
        return {job.id for job in crowded if not job.said() and job.name not in self.held}

    def _own_count(self, job: Ended) -> int | None:
        """The number of newer jobs after which it goes, if that was said for the job itself."""
        said = job.said()
        return None if said is None or is_bucketed(said[1]) else said[1].last

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
            elif keep.last is None and keep.first is None:
                continue
            elif said is not None and not is_bucketed(keep):
                assert keep.last is not None
                if job.number is not None and self._ends[outcome] - job.number >= keep.last:
                    due.append(job)
            else:
                together[said is None or keep, job.bucket(keep)].append((job, keep))
        return [*due, *_too_many(together.values())]

    def _rule(self, outcome: Outcome) -> Keep | None:
        for level in LIVE_LEVELS:
            value = self.live.get(level)
            keep = None if value is None else value.of(outcome)
            if keep is not None:
                return keep
        return None


def is_bucketed(keep: Keep) -> bool:
    """Whether it counts the jobs that are there, together with others of the same rule."""
    return keep.key is not None or keep.first is not None


def _too_many(buckets: Iterable[list[tuple[Ended, Keep]]]) -> Iterator[Ended]:
    """All but the oldest and the newest of each bucket."""
    for bucket in buckets:
        bucket.sort(key=lambda each: (each[0].finished_on, each[0].id))
        keep = bucket[0][1]
        first, last = keep.first or 0, keep.last or 0
        for job, _ in bucket[first : max(first, len(bucket) - last)]:
            yield job
