"""What a store of archived jobs has to do, and how one is registered.

A plugin that brings a store registers a function that opens it:

    @hookimpl
    def toril_register(registry: Registry) -> None:
        registry.name("archive-store", "postgres", open_store)


    def open_store(options: Mapping[str, Any], clock: Clock) -> ArchiveStore: ...

It is chosen by `store = "postgres"` in the table `archive` of the configuration; `options` is the
table below it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Protocol, TypeAlias

from toril.plugins import Clock, Outcome
from toril_plugins.archive.record import ArchivedJob

STORE_KIND: Final = "archive-store"
"""The kind under which stores are registered."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """Which archived jobs are asked for; what is None says nothing.

    `since` and `until`: finished at that time or later, and before that time, in milliseconds since
    the epoch.
    """

    queue: str | None = None
    id: str | None = None
    outcome: Outcome | None = None
    name: str | None = None
    since: int | None = None
    until: int | None = None

    def matches(self, job: ArchivedJob) -> bool:
        """Whether this job is one of them; for stores that cannot ask a database."""
        return (
            self.queue in (None, job.queue)
            and self.id in (None, job.id)
            and self.outcome in (None, job.outcome)
            and self.name in (None, job.name)
            and (self.since is None or job.finished_on >= self.since)
            and (self.until is None or job.finished_on < self.until)
        )


@dataclass(frozen=True, slots=True)
class Page:
    """Some archived jobs, and where to go on: `after` is None behind the last one."""

    jobs: Sequence[ArchivedJob]
    after: str | None


class ArchiveStore(Protocol):
    """Where archived jobs are kept.

    Its methods block and are called in one thread, one at a time. Every method may raise whatever
    its medium raises: jobs that could not be archived are kept and come again.
    """

    def add(self, jobs: Sequence[ArchivedJob]) -> int:
        """Keep these jobs; return how many were not there before.

        When it returns they are safe: a crash of process or machine loses none of them. A job whose
        `key` is there already is left as it is.
        """
        ...

    def find(self, wanted: Wanted, after: str | None = None, limit: int = 100) -> Page:
        """Some of those that are wanted, last archived first; `after` is that of the page before.

        Raises `ValueError` for an `after` that is none of this store's.
        """
        ...

    def get(self, queue: str, id: str, finished_on: int | None = None) -> ArchivedJob | None:
        """One job: as it finished then, or as it finished last."""
        ...

    def erase(self, queue: str, id: str) -> int:
        """Forget all records of a job for good; return how many there were."""
        ...

    def close(self) -> None:
        """Let go of files and connections."""
        ...


OpenStore: TypeAlias = Callable[[Mapping[str, Any], Clock], ArchiveStore]
"""What is registered: opens a store with the options of its table. Raises `ConfigurationError`."""
