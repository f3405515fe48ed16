"""What happens to jobs, as hooks get to see it: one frozen dataclass per event hook."""

from __future__ import annotations

from dataclasses import dataclass

from toril.snapshots import FinishedJob, JobRef, JobSnapshot
from toril.types import FinishCause, Outcome, RemovalCause, State


@dataclass(frozen=True, slots=True)
class JobSaved:
    """A job was written. `scheduled` if a schedule made it."""

    job: JobSnapshot
    scheduled: bool = False


@dataclass(frozen=True, slots=True)
class JobCompleted:
    """A job ended well. It may already be gone from the server."""

    job: FinishedJob


@dataclass(frozen=True, slots=True)
class JobAttemptFailed:
    """An attempt failed.

    `final`: the job has failed for good. Otherwise it runs again after `retry_in` milliseconds.
    `cause` says who failed it.
    """

    job: JobSnapshot
    reason: str
    final: bool
    cause: FinishCause
    retry_in: int | None = None


@dataclass(frozen=True, slots=True)
class JobRetried:
    """A finished job was put back; `previous` is the state it was in."""

    job: JobRef
    previous: Outcome


@dataclass(frozen=True, slots=True)
class JobStalled:
    """A job whose worker vanished was put back.

    `stalled_count` counts how often that has happened to it; `fails_next`: the limit is reached,
    so the next worker will fail it without running it.
    """

    job: JobRef
    stalled_count: int
    fails_next: bool


@dataclass(frozen=True, slots=True)
class JobRemoved:
    """A job left the server; `job` is how it was just before, `state` where it was.

    If a rule did it, `plugin` and `rule` name it.
    """

    job: JobSnapshot
    state: State
    cause: RemovalCause
    rule: str | None = None
    plugin: str | None = None


JobEvent = JobSaved | JobCompleted | JobAttemptFailed | JobRetried | JobStalled | JobRemoved
