"""Which finished jobs of a queue are left, and what of them, by what was said: pure Python.

It knows the levels, ages, counts, keys, tiers, tombstones, taken ids, ceilings, holds, required
plugins, and in which order a sweep does its work; it knows nothing of indexes, scripts or slices.

What a finish or a sweep cannot know is part of what is said, and so of the model: a job that a
foreigner has ended counts among those of the live rule until a sweep has seen it (`known`); an own
count is reached by the ends that Toril has recorded, and, when a sweeper begins, by the jobs that
are there.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Final, TypeAlias

from tests.model.ended import (
    LIVE_LEVELS,
    OUTCOMES,
    TIERS,
    Answers,
    Ended,
    LiveLevel,
    Tier,
    Tomb,
)

from toril.plugins import Outcome
from toril_plugins import Ceiling, Keep, Retention

ASKED_AGAIN: Final = 60_000
"""Milliseconds after which a job is asked about again whose sweep was cut off."""


Rules: TypeAlias = Sequence[tuple[LiveLevel, Keep] | None]
"""The live rule of each outcome, and the level where it was said."""


@dataclass(slots=True)
class Sweeper:
    """What a sweeper remembers; a new one remembers nothing, and looks at everything.

    `seen`: until when the jobs had finished that it has got to know (ms). It looks at the last ones
    of these again each time.
    """

    begun: bool = False
    seen: Mapping[Outcome, int] = field(default_factory=dict[Outcome, int])
    rules: Rules | None = None
    held: frozenset[str] | None = None


class Kept:
    """The finished jobs that are left, and what is said for their queue.

    `held`: the names of jobs that are held; `required`: a plugin is required that nobody has;
    `window`: for how long an id stays taken (ms). `answers`: what a strategy says now, if there is
    one. It may have something to say about any job, so a sweep asks before one goes by a live rule;
    what it said when a job was decided about holds.
    """

    def __init__(self, answers: Answers | None = None) -> None:
        self.answers = answers
        self.jobs: dict[str, Ended] = {}
        self.tombs: dict[str, Tomb] = {}
        self.taken: dict[str, Tomb] = {}
        self.live: dict[LiveLevel, Retention] = {}
        self.ceiling: Ceiling | None = None
        self.held: frozenset[str] = frozenset()
        self.required = False
        self.window: int | None = None
        self._ends: Counter[Outcome] = Counter()
        self._sought: frozenset[str] = frozenset()
        self._sweeper = Sweeper()

    def fork(self) -> Kept:
        """Another one in the same state."""
        other = Kept()
        other.__dict__.update(self.__dict__)
        other.jobs = {job.id: replace(job) for job in self.jobs.values()}
        other.tombs, other.taken, other.live = dict(self.tombs), dict(self.taken), dict(self.live)
        other._ends, other._sweeper = Counter(self._ends), replace(self._sweeper)
        return other

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Kept) and self.__dict__ == other.__dict__

    __hash__ = None  # type: ignore[assignment]  # pyright: ignore[reportAssignmentType]

    # What happens --------------------------------------------------------------------------------

    def ended_elsewhere(self, job: Ended) -> None:
        """A foreigner has ended the job, and removed nothing."""
        self.jobs[job.id] = job

    def ended(self, job: Ended, now: int) -> None:
        """Toril has ended the job just now, and does at once what can be done then."""
        self.jobs[job.id] = job
        outcome, rule = job.outcome, self._rule(job.outcome)
        if job.name in self.held:
            job.away = True
        else:
            self._ends[outcome] += 1
            self._decide(job, now)
            self._let_go(self._counted_out(outcome), now)
        self._apply_ceiling(outcome, now)
        if rule is None or job.away or job.said is not None:
            return
        if self.answers is not None and rule.last != 0:
            return
        if is_bucketed(rule):
            self._let_go(_too_many(self._live_buckets(outcome, rule, job), rule), now)
        elif rule.last is not None:
            crowded = [job] if rule.last == 0 else self._crowded(outcome, rule)
            for each in crowded:
                if each.said is not None:
                    each.parked = now  # somebody else ended it: it is asked about first
            self._let_go([each for each in crowded if each.parked is None], now)

    def sweep(self, now: int, *, fresh: bool) -> Iterator[None]:
        """Sweep, step by step; at each a sweep may be cut off. `fresh`: by a new sweeper."""
        if fresh:
            self._sweeper = Sweeper()
        again = True
        while again:
            for outcome in OUTCOMES:
                if not self._sweeper.begun:
                    self._let_go(self._outnumbered(outcome), now)
                    yield
                yield from self._adopt(outcome, now)
            asked = [
                job for job in self.jobs.values() if job.parked is not None and job.parked <= now
            ]
            for job in asked:
                job.parked = now + ASKED_AGAIN  # if this sweep does not come to its end
            beyond: list[Ended] = []
            for outcome in OUTCOMES if not self.required else ():
                self._remove_due(outcome, now)
                beyond += self._remove_by_rule(outcome, now)
            yield
            for job in asked:
                self._decide(job, now)
            for job in beyond:
                if self._answer(job) is not None:
                    self._decide(job, now)
                elif job.id in self.jobs and self._is_beyond(job, now):
                    self._let_go([job], now)
            yield
            rules = tuple(self._rule_and_level(outcome) for outcome in OUTCOMES)
            before, self._sweeper.rules = self._sweeper.rules, rules
            self._forget_seen(before, rules)
            again = self._follow_holds(now) or before not in (None, rules)
            self._sweeper.begun = True
            yield
            again = again and not self.required

    def due_at(self, now: int) -> list[int]:
        """When ages and tiers of the jobs that are there are due, later than now (ms)."""
        found: set[int] = set()
        for job in self.jobs.values():
            keep = job.said or self._rule(job.outcome)
            for age in (keep.age_ms, *map(keep.ms, TIERS)) if keep else ():
                if age is not None and job.finished_on + age > now:
                    found.add(job.finished_on + age)
        return sorted(found)

    # The steps of a sweep ------------------------------------------------------------------------

    def _outnumbered(self, outcome: Outcome) -> list[Ended]:
        """Those with an own count of which so many newer jobs are there."""
        there = [job for job in self._of(outcome) if not job.away]
        return [
            job
            for job in there
            if job.is_own
            and (count := own_count(job)) is not None
            and sum(other.finished_on > job.finished_on for other in there) >= count
        ]

    def _adopt(self, outcome: Outcome, now: int) -> Iterator[None]:
        """Get to know what others have ended."""
        there = [job for job in self._of(outcome) if not job.away]
        seen = self._sweeper.seen.get(outcome, 0)
        asking = self.answers is not None
        strange = [
            job
            for job in there
            if job.is_live and (not job.known or (asking and job.finished_on >= seen))
        ]
        if there:
            self._sweeper.seen = {**self._sweeper.seen, outcome: there[-1].finished_on}
        for job in strange:
            job.away = job.name in self.held
            job.known = not job.away and (job.known or (job.said is None and not asking))
        yield
        for job in strange:
            if not job.away and (asking or not job.known):
                self._decide(job, now)
        yield

    def _forget_seen(self, before: Rules | None, rules: Rules) -> None:
        """Where jobs are counted together in another way, it looks at all of them."""
        for outcome, old, new in zip(OUTCOMES, before or rules, rules, strict=True):
            if counted_by(old) != counted_by(new):
                self._sweeper.seen = {**self._sweeper.seen, outcome: 0}

    def _remove_due(self, outcome: Outcome, now: int) -> None:
        own = [(job, job.said) for job in self._of(outcome) if job.is_own]
        due = [job for job, keep in own if keep and (job.over or job.is_aged(keep, now))]
        self._strip([(job, keep) for job, keep in own if keep and job not in due], now)
        self._let_go(due, now)
        self._let_go(self._counted_out(outcome), now)
        self._apply_ceiling(outcome, now)

    def _remove_by_rule(self, outcome: Outcome, now: int) -> list[Ended]:
        """What the live rule does not keep goes, or is returned, to be asked about first."""
        rule = self._rule(outcome)
        if rule is None:
            return []
        aged = [job for job in self._of(outcome) if job.is_live and job.is_aged(rule, now)]
        crowded = [] if is_bucketed(rule) else self._crowded(outcome, rule)
        beyond = list({job.id: job for job in (*aged, *crowded)}.values())
        if self.answers is None:
            self._let_go(beyond, now)
        self._strip([(job, rule) for job in self._of(outcome) if job.is_live], now)
        if is_bucketed(rule):
            many = list(_too_many(self._live_buckets(outcome, rule), rule))
            if self.answers is not None:
                beyond += many
            else:
                self._let_go(many, now)
        return [] if self.answers is None else beyond

    def _is_beyond(self, job: Ended, now: int) -> bool:
        """Whether the live rule does not keep the job, about which nothing else was said."""
        rule = self._rule(job.outcome)
        if rule is None or not job.is_live:
            return False
        if is_bucketed(rule):
            many = _too_many(self._live_buckets(job.outcome, rule), rule)
        else:
            many = iter(self._of(job.outcome) if self._crowded(job.outcome, rule) else ())
        return job.is_aged(rule, now) or job in many

    def _follow_holds(self, now: int) -> bool:
        """Hold and release. Returns whether there was anything to do."""
        if self._sweeper.held == self.held:
            return False
        released = [job for job in self.jobs.values() if job.away and job.name not in self.held]
        for job in released:
            job.away, job.known, job.parked = False, False, now
        found: list[Ended] = []
        if self._sought != self.held:
            found = [job for job in self.jobs.values() if job.name in self.held and not job.away]
            _take_away(found)
        self._sweeper.held = self._sought = self.held
        return bool(released or found)

    # What is said --------------------------------------------------------------------------------

    def _decide(self, job: Ended, now: int) -> None:
        """Get to know the job, and what is said for it."""
        job.known, job.parked, job.number = True, None, self._ends[job.outcome]
        job.answer = self._answer(job)
        keep = job.said
        if keep is not None and keep.is_nothing:
            self._let_go([job], now)
        elif keep is not None and is_bucketed(keep):
            together = [
                other
                for other in self._of(job.outcome)
                if other.is_own
                and not other.over
                and other.said == keep
                and other.bucket(keep) == job.bucket(keep)
            ]
            self._let_go(_too_many([together], keep), now)

    def _answer(self, job: Ended) -> Keep | None:
        """What a strategy says of the job now."""
        return None if self.answers is None else self.answers.get((job.outcome, job.name))

    def _counted_out(self, outcome: Outcome) -> list[Ended]:
        """Those with an own count after which so many have ended by Toril."""
        ends = self._ends[outcome]
        return [
            job
            for job in self._of(outcome)
            if job.is_own and (count := own_count(job)) is not None and ends - job.number >= count
        ]

    def _crowded(self, outcome: Outcome, rule: Keep) -> list[Ended]:
        """What the live count does not keep."""
        if rule.last is None:
            return []
        live = [job for job in self._of(outcome) if job.is_live]
        return live[: max(0, len(live) - rule.last)]

    def _apply_ceiling(self, outcome: Outcome, now: int) -> None:
        ceiling = None if self.ceiling is None else self.ceiling.of(outcome)
        if ceiling is None:
            return
        jobs = [job for job in self._of(outcome) if job.parked is None and not job.away]
        excess = 0 if ceiling.last is None else len(jobs) - ceiling.last
        beyond = [job for n, job in enumerate(jobs) if n < excess or job.is_aged(ceiling, now)]
        self._let_go(beyond, now, by_ceiling=True)

    def _live_buckets(
        self, outcome: Outcome, rule: Keep, of: Ended | None = None
    ) -> Iterable[list[Ended]]:
        """Jobs that are counted together; `of`: only those together with this one."""
        found: defaultdict[Hashable, list[Ended]] = defaultdict(list)
        for job in self._of(outcome):
            if job.known and job.is_live and (of is None or job.bucket(rule) == of.bucket(rule)):
                found[job.bucket(rule)].append(job)
        return list(found.values())

    def _of(self, outcome: Outcome) -> list[Ended]:
        """The jobs that are there, oldest first."""
        jobs = [job for job in self.jobs.values() if job.outcome == outcome]
        return sorted(jobs, key=lambda job: job.finished_on)

    def _rule(self, outcome: Outcome) -> Keep | None:
        found = self._rule_and_level(outcome)
        return None if found is None else found[1]

    def _rule_and_level(self, outcome: Outcome) -> tuple[LiveLevel, Keep] | None:
        for level in LIVE_LEVELS:
            value = self.live.get(level)
            keep = None if value is None else value.of(outcome)
            if keep is not None:
                return level, keep
        return None

    # The gate ------------------------------------------------------------------------------------

    def _let_go(self, jobs: Iterable[Ended], now: int, *, by_ceiling: bool = False) -> None:
        """Remove the jobs, unless somebody holds them, or nothing may go."""
        for job in list(jobs):
            if job.name in self.held:
                _take_away([job])
            elif self.required:
                job.over = job.over or (job.is_own and not by_ceiling)
            else:
                keep = job.said if job.is_own else self._rule(job.outcome)
                until = job.finished_on + ((keep and keep.ms("tombstone")) or 0)
                if until > now:
                    self.tombs[job.id] = Tomb(now, until)
                if self.window is not None:
                    self.taken[job.id] = Tomb(now, now + self.window)
                del self.jobs[job.id]

    def _strip(self, jobs: Iterable[tuple[Ended, Keep]], now: int) -> None:
        """Take away the tiers that are due."""
        for job, keep in jobs:
            due: set[Tier] = {
                tier
                for tier in TIERS
                if (age := keep.ms(tier)) is not None and now - job.finished_on >= age
            }
            if due - job.lost and job.name in self.held:
                _take_away([job])
            elif due:
                job.lost |= due


def _take_away(jobs: Iterable[Ended]) -> None:
    """The jobs are held from now on."""
    for job in jobs:
        job.away, job.parked, job.over = True, None, False


def own_count(job: Ended) -> int | None:
    """The number of newer jobs after which it goes, if that was said for the job itself."""
    keep = job.said
    return None if keep is None or is_bucketed(keep) else keep.last


def counted_by(rule: tuple[LiveLevel, Keep] | None) -> str | None:
    """By what a live rule counts jobs together; None: it does not."""
    return None if rule is None or not is_bucketed(rule[1]) else rule[1].key or ""


def is_bucketed(keep: Keep) -> bool:
    """Whether it counts the jobs that are there, together with others of the same rule."""
    return keep.key is not None or keep.first is not None


def _too_many(buckets: Iterable[list[Ended]], keep: Keep) -> Iterator[Ended]:
    """All but the oldest and the newest of each bucket."""
    first, last = keep.first or 0, keep.last or 0
    for bucket in buckets:
        yield from bucket[first : max(first, len(bucket) - last)]
