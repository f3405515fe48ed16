"""What the hooks said, noted down."""

from __future__ import annotations

from collections.abc import Sequence

from toril.hooks.context import WorkerInfo
from toril.hooks.markers import hookimpl
from toril.job_events import (
    JobAttemptFailed,
    JobCompleted,
    JobRemoved,
    JobRetried,
    JobSaved,
    JobStalled,
)
from toril.snapshots import JobSnapshot
from toril.types import RemovalCause, State


class HookRecorder:
    """A plugin that notes everything that the event hooks said, in order, by hook."""

    toril_name = "recorder"

    def __init__(self) -> None:
        self.saved: list[JobSaved] = []
        self.completed: list[JobCompleted] = []
        self.failed: list[JobAttemptFailed] = []
        """Every attempt that failed; `final` says whether the job did."""
        self.retried: list[JobRetried] = []
        self.stalled: list[JobStalled] = []
        self.removed: list[JobRemoved] = []
        self.workers_ready: list[WorkerInfo] = []
        self.workers_stopped: list[WorkerInfo] = []

    def __repr__(self) -> str:
        counts = ", ".join(f"{name} {len(told)}" for name, told in vars(self).items() if told)
        return f"<HookRecorder: {counts or 'nothing'}>"

    def clear(self) -> None:
        """Forget everything noted so far."""
        for told in vars(self).values():
            told.clear()

    @hookimpl
    def toril_jobs_saved(self, events: Sequence[JobSaved]) -> None:
        self.saved += events

    @hookimpl
    def toril_jobs_completed(self, events: Sequence[JobCompleted]) -> None:
        self.completed += events

    @hookimpl
    def toril_jobs_failed(self, events: Sequence[JobAttemptFailed]) -> None:
        self.failed += events

    @hookimpl
    def toril_jobs_retried(self, events: Sequence[JobRetried]) -> None:
        self.retried += events

    @hookimpl
    def toril_jobs_stalled(self, events: Sequence[JobStalled]) -> None:
        self.stalled += events

    @hookimpl
    def toril_jobs_removed(self, events: Sequence[JobRemoved]) -> None:
        self.removed += events

    @hookimpl
    def toril_worker_ready(self, worker: WorkerInfo) -> None:
        self.workers_ready.append(worker)

    @hookimpl
    def toril_worker_stopped(self, worker: WorkerInfo) -> None:
        self.workers_stopped.append(worker)


class Removed:
    """The jobs that left the server, for assertions.

    `events` is the list that they are told to, for example `HookRecorder.removed`.
    """

    def __init__(self, events: Sequence[JobRemoved]) -> None:
        self._events = events

    def by(
        self,
        state: State | None = None,
        rule: str | None = None,
        *,
        plugin: str | None = None,
        cause: RemovalCause | None = None,
    ) -> list[JobSnapshot]:
        """The jobs that were removed in this way, as they were just before, in order.

        Args:
            state: Where they were: `"failed"`.
            rule: The rule that removed them, whole (`"queue: 30d"`) or without who says it
                (`"30d"`).
            plugin: The plugin whose rule it was.
            cause: Why they were removed: `"rule"`, `"operator"`, …
        """
        return [
            event.job
            for event in self._events
            if state in (None, event.state)
            and (rule is None or rule in _names(event.rule))
            and plugin in (None, event.plugin)
            and cause in (None, event.cause)
        ]

    @property
    def ids(self) -> list[str]:
        """The ids of all of them, in order."""
        return [event.job.id for event in self._events]

    def __len__(self) -> int:
        return len(self._events)

    def __contains__(self, job: object) -> bool:
        """Whether a job (anything with an `id`), or an id, is among them."""
        return getattr(job, "id", job) in self.ids

    def __repr__(self) -> str:
        lines = [f"{_where(event)} by {event.rule or event.cause}" for event in self._events]
        return f"<Removed: {'; '.join(lines) or 'nothing'}>"


def _names(rule: str | None) -> tuple[str, ...]:
    """What a rule may be called: whole, and without who says it."""
    return () if rule is None else (rule, rule.partition(": ")[2])


def _where(event: JobRemoved) -> str:
    return f"{event.state} {event.job.queue}/{event.job.id}"
