"""What those who review removals, and those who copy jobs before them, are given and answer."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from types import EllipsisType
from typing import TypeAlias

from toril.plugins import FinishedJob, JobParts, JobRef, Json, milliseconds
from toril_plugins.retention.keep import Keep


@dataclass(frozen=True, slots=True)
class Due:
    """A finished job that falls due.

    `keep` is what it was kept by and `rule` the same in words, with who said it (`job: last 5`,
    `plugin acme: 7d`, `ceiling of the queue: 30d`). `note` is what a reviewer left on its last
    visit, with `Rewrite`.
    """

    job: FinishedJob
    keep: Keep
    rule: str
    note: str | None = None


@dataclass(frozen=True, slots=True)
class Postpone:
    """It stays for now, and comes again `delay` later.

    Args:
        delay: a `timedelta` or a text such as `"10m"`, from now on; at least a second.
        why: for people; `toril jobs explain` shows it.

    Raises:
        ValueError: the delay is shorter than a second.
        TypeError: for a bare number.
    """

    delay: timedelta | str
    why: str

    def __post_init__(self) -> None:
        ms = milliseconds(self.delay)
        if ms < 1_000:
            raise ValueError(f"Postpone({self.delay!r}): wait for a second at least")
        object.__setattr__(self, "delay", timedelta(milliseconds=ms))

    @property
    def ms(self) -> int:
        """The delay in milliseconds."""
        return milliseconds(self.delay)


@dataclass(frozen=True, slots=True, kw_only=True)
class Rewrite:
    """It stays, as something else: with other data and under another decision.

    Args:
        keep: how long it is kept from now on; an age counts from its finish, as always. If it is
            over already the job comes again after a minute.
        data: its new data; left out, the data stays as it is.
        note: the reviewer's own memory, there again as `Due.note` on the next visit.
    """

    keep: Keep
    data: Json | EllipsisType = ...
    note: str | None = None


Verdict: TypeAlias = Postpone | Rewrite
Verdicts: TypeAlias = Mapping[str, Verdict] | None
"""By job id, for those that shall not go; None: all may."""


@dataclass(frozen=True, slots=True)
class FlowState:
    """How far the flow of a job has got.

    `settled`: its root has ended, and so has every other job of it, or is gone. `failed` are its
    jobs that have failed, as `queue/id`, from the root down. `whole` is False where the flow is so
    large that not all of it was read: then `settled` goes by those that were, and by whether
    anybody waits for a child.
    """

    root: JobRef
    settled: bool
    failed: tuple[str, ...]
    whole: bool = True


Flows: TypeAlias = Callable[[FinishedJob], Awaitable[FlowState]]
"""Reads the flow of a job, once per batch and flow; a job without relatives is a flow of one."""


@dataclass(frozen=True, slots=True)
class JobDetails:
    """What is to be known of a job beside its hash.

    `logs` are its log lines, oldest first; `processed` the results of its children that completed
    and `ignored` the reasons of those that failed without failing it, by the child's key
    (`bull:steps:c1`). `rule` says why it goes, as `Due.rule`. `stored` is all of it byte for byte.
    """

    logs: tuple[str, ...]
    processed: Mapping[str, Json]
    ignored: Mapping[str, str]
    rule: str = ""
    stored: JobParts = field(default_factory=JobParts)


Details: TypeAlias = Mapping[str, JobDetails]
"""By job id."""
