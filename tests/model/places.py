"""Where jobs are and what is stored of them, in plain Python: lists, sets, and a clock."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, Final

Key = str
Told = tuple[Any, ...]
"""What a hook must hear: the kind of event, the key of the job, and more."""

SLOTS: Final = 4096
STEP: Final = 2**32


@dataclass(eq=False)
class ModelJob:
    """A job as it has to be stored."""

    queue: ModelQueue
    id: str
    name: str
    timestamp: int
    delay: int = 0
    priority: int = 0
    lifo: bool = False
    parent: Key | None = None
    policy: str | None = None
    state: str = ""
    made: int = 0
    started: int = 0
    stalled: int = 0
    token: str | None = None
    deferred: str | None = None
    processed_on: int | None = None
    finished_on: int | None = None
    result: str | None = None
    reason: str | None = None
    lines: int = 0
    dependencies: set[Key] = field(default_factory=set[Key])
    processed: dict[Key, str] = field(default_factory=dict[Key, str])
    failures: dict[Key, str] = field(default_factory=dict[Key, str])
    unsuccessful: dict[Key, int] = field(default_factory=dict[Key, int])

    @property
    def key(self) -> Key:
        return f"{self.queue.key}:{self.id}"

    def picture(self) -> dict[str, str]:
        """The fields of its hash that the model knows."""
        fields: dict[str, Any] = {
            "timestamp": self.timestamp,
            "delay": self.delay,
            "priority": self.priority,
            "parentKey": self.parent,
            "atm": self.made or None,
            "ats": self.started or None,
            "stc": self.stalled or None,
            "defa": self.deferred,
            "processedOn": self.processed_on,
            "finishedOn": self.finished_on,
            "returnvalue": self.result,
            "failedReason": self.reason,
        }
        return {name: str(value) for name, value in fields.items() if value is not None}


PICTURED: Final = frozenset(
    ("timestamp", "delay", "priority", "parentKey", "atm", "ats", "stc", "defa", "processedOn")
) | {"finishedOn", "returnvalue", "failedReason"}


@dataclass(eq=False)
class ModelQueue:
    """A queue. Lists have their head first, as the server lists them; sets have scores."""

    key: str
    concurrency: int | None = None
    paused: bool = False
    sequence: int = 0
    lists: dict[str, list[str]] = field(default_factory=lambda: {"wait": [], "active": []})
    sets: dict[str, dict[str, int]] = field(
        default_factory=lambda: {
            name: {}
            for name in ("delayed", "prioritized", "waiting-children", "completed", "failed")
        }
    )
    suspects: set[str] = field(default_factory=set[str])
    checked_at: int | None = None

    @property
    def name(self) -> str:
        return self.key.rpartition(":")[2]

    @property
    def blocked(self) -> bool:
        return self.paused or (
            self.concurrency is not None and len(self.lists["active"]) >= self.concurrency
        )

    @property
    def ready(self) -> bool:
        """Whether a job waits for its turn."""
        return bool(self.lists["wait"] or self.sets["prioritized"])

    def sorted(self, name: str) -> list[str]:
        """The ids of a set, by score and id."""
        members = self.sets[name]
        return sorted(members, key=lambda job_id: (members[job_id], job_id))


class Refused(Exception):
    """The operation must be refused with the error of that name."""


class Places:
    """Queues, jobs and the time. `told` collects what hooks must hear."""

    def __init__(self, now: int, queues: Iterable[str]) -> None:
        self.now = now
        self.queues = {key: ModelQueue(key) for key in queues}
        self.jobs: dict[Key, ModelJob] = {}
        self.told: list[Told] = []

    # Where jobs are.

    def out(self, job: ModelJob) -> None:
        """Take a job out of the state it is in."""
        queue = job.queue
        if job.state in queue.lists:
            queue.lists[job.state].remove(job.id)
        elif job.state:
            del queue.sets[job.state][job.id]
        job.state = ""

    def to_list(self, job: ModelJob, name: str, *, tail: bool) -> None:
        place = job.queue.lists[name]
        place.insert(len(place) if tail else 0, job.id)
        job.state = name

    def to_set(self, job: ModelJob, name: str, score: int) -> None:
        job.queue.sets[name][job.id] = score
        job.state = name

    def push(self, job: ModelJob, *, next_to_run: bool) -> None:
        """Among the waiting ones: by priority, else at one end."""
        if job.priority:
            job.queue.sequence += 1
            self.to_set(job, "prioritized", job.priority * STEP + job.queue.sequence)
        else:
            self.to_list(job, "wait", tail=next_to_run)

    def push_delayed(self, job: ModelJob, due: int) -> None:
        """Behind those that are due in the same millisecond."""
        lowest = due * SLOTS
        same = [s for s in job.queue.sets["delayed"].values() if lowest <= s < lowest + SLOTS]
        self.to_set(job, "delayed", max(same) + 1 if same else lowest)

    def promote_due(self, queue: ModelQueue) -> None:
        for job_id in queue.sorted("delayed"):
            if queue.sets["delayed"][job_id] < (self.now + 1) * SLOTS:
                self._promote(self.jobs[f"{queue.key}:{job_id}"])

    def _promote(self, job: ModelJob) -> None:
        self.out(job)
        self.push(job, next_to_run=False)
        job.delay = 0

    def parent_of(self, job: ModelJob) -> ModelJob | None:
        """Its parent, if that lives."""
        return None if job.parent is None else self.jobs.get(job.parent)
