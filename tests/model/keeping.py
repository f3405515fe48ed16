"""What rules about keeping finished jobs allow and demand, whichever way the scripts do it."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass

from tests.model.model import Model
from tests.model.places import Key, ModelJob, ModelQueue

from toril_plugins import Keep, Retention


@dataclass(frozen=True)
class _Rule:
    """What holds for a job: how long it is kept, and whether that was said for this very job."""

    keep: Keep
    own: bool


class Keeping:
    """Watches a model's jobs end, and says which may go by a rule and which must be gone.

    `own` is what was said for jobs, `live` what is said for queues.
    """

    def __init__(self, model: Model) -> None:
        self._model = model
        self.own: dict[Key, Retention] = {}
        self.live: dict[Key, Retention] = {}
        self._ends: dict[tuple[Key, str], int] = {}
        """How many jobs of a queue and outcome have ended."""
        self._number: dict[Key, int] = {}
        """The how-manieth of these a job was."""
        self._held: set[Key] = set()
        """Jobs that a parent waits, or has waited, for since they ended: they may stay until the
        sweeper looks at them again."""

    def ended(self, job: ModelJob) -> None:
        """A job ended just now."""
        place = (job.queue.key, job.state)
        self._ends[place] = self._ends.get(place, 0) + 1
        self._number[job.key] = self._ends[place]
        self._held.discard(job.key)

    def look(self) -> None:
        """To be called after each step: note who keeps a parent waiting."""
        self._held |= {job.key for job in self._finished() if self._model.blocks(job)}

    def may_go(self, job: ModelJob) -> bool:
        """Whether a rule allows that this job is removed now."""
        finished = job.state in ("completed", "failed") and job.token is None
        return finished and not self._model.blocks(job) and self._is_due(job, held=True)

    def due(self, queue: ModelQueue) -> list[Key]:
        """The jobs that a sweep of the queue must have removed."""
        return [
            job.key
            for job in self._finished()
            if job.queue is queue and job.key not in self._held and self._is_due(job)
        ]

    def due_at_once(self, ended: Collection[ModelJob]) -> list[Key]:
        """The jobs that must be gone by their number as soon as others have ended."""
        return [
            job.key
            for job in self._finished()
            if job.key not in self._held
            and any(job is one or self._together(job, one) for one in ended)
            and not self._is_old(job)
            and self._is_due(job)
        ]

    def _finished(self) -> Iterator[ModelJob]:
        for job in self._model.jobs.values():
            if job.state in ("completed", "failed"):
                yield job

    def _rule(self, job: ModelJob) -> _Rule | None:
        for said, own in ((self.own.get(job.key), True), (self.live.get(job.queue.key), False)):
            keep = said and (said.completed if job.state == "completed" else said.failed)
            if keep:
                return _Rule(keep, own)
        return None

    def _is_due(self, job: ModelJob, *, held: bool = False) -> bool:
        """`held`: jobs that a parent held back count as kept."""
        rule = self._rule(job)
        if rule is None or rule.keep.is_forever:
            return False
        if rule.keep.is_nothing or self._is_old(job):
            return True
        if rule.keep.last is None:
            return False
        if rule.own and rule.keep.key is None:
            newer = self._ends[job.queue.key, job.state] - self._number[job.key]
        else:
            newer = sum(
                self._together(other, job)
                and self._order(other) > self._order(job)
                and (held or other.key not in self._held)
                for other in self._finished()
            )
        return newer >= rule.keep.last

    def _is_old(self, job: ModelJob) -> bool:
        rule = self._rule(job)
        if rule is None or rule.keep.age_ms is None or job.finished_on is None:
            return False
        return self._model.now - job.finished_on >= rule.keep.age_ms

    def _together(self, one: ModelJob, other: ModelJob) -> bool:
        """Whether two finished jobs are counted together."""
        rule = self._rule(one)
        return (
            rule is not None
            and (one.queue, one.state) == (other.queue, other.state)
            and rule == self._rule(other)
            and (rule.keep.key is None or one.name == other.name)
        )

    @staticmethod
    def _order(job: ModelJob) -> tuple[int, str]:
        return (job.finished_on or 0, job.id)
