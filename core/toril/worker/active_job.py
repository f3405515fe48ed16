"""The job a handler is running."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Sequence
from datetime import timedelta
from typing import Any, Final, Literal, Protocol, TypeVar

import msgspec

from toril.duration import milliseconds
from toril.errors import LockLost
from toril.flow import Flow
from toril.new_job import NewJob
from toril.options import long_names
from toril.protocol.dependencies import Dependencies, DependencyKind, DependencyPage
from toril.removals import Removals
from toril.snapshots import JobRef, JobSnapshot, ParentRef, SettingsView
from toril.types import Json, JsonObject

T = TypeVar("T")


class Undecodable(ValueError):
    """A stored field of the job is garbled, so that it cannot be run."""


class JobHost(Protocol):
    """What a running job needs of its worker."""

    @property
    def stopping(self) -> bool: ...
    @property
    def loop(self) -> asyncio.AbstractEventLoop: ...
    async def update(self, job: ActiveJob, data: Json, /) -> None: ...
    async def progress(self, job: ActiveJob, value: Json, /) -> None: ...
    async def log(self, job: ActiveJob, line: str, /) -> int: ...
    async def add_children(
        self, job: ActiveJob, children: Sequence[NewJob | Flow], /
    ) -> list[JobRef]: ...
    async def children(self, job: ActiveJob, /) -> Dependencies: ...
    async def children_counts(self, job: ActiveJob, /) -> dict[DependencyKind, int]: ...
    async def children_page(
        self, job: ActiveJob, kind: DependencyKind, cursor: str, count: int, /
    ) -> DependencyPage: ...
    async def remove_unprocessed_children(self, job: ActiveJob, /) -> Removals: ...
    async def clear_logs(self, job: ActiveJob, keep: int, /) -> None: ...
    async def extend_lock(self, job: ActiveJob, ms: int, /) -> None: ...


_OF_THE_HOST: Final = frozenset(name for name in vars(JobHost) if not name.startswith("_"))


class ActiveJob:
    """A job while it runs: what was stored with it, and what its handler can do.

    The methods are for `async def` handlers; a plain `def` handler finds the same ones, blocking,
    in `job.sync`. Once the job is no longer this worker's, everything that writes is refused with
    `LockLost`.
    """

    __slots__ = (
        "_host", "cancelled", "data", "id", "interruption", "lock_until", "lost", "opts",
        "phase", "queue", "serial", "snapshot", "task", "token",
    )  # fmt: skip

    queue: str
    """The queue's name."""
    id: str
    token: str
    """The value of the job's lock while it is this worker's: new each time a job is picked up."""
    data: Json
    """The payload."""
    opts: JsonObject
    """The stored options under their public, long BullMQ names."""
    snapshot: JobSnapshot
    """The job as it was stored when it was picked up."""
    cancelled: bool
    """The handler is to end: its lock was lost, the worker gives the job back, somebody cancelled
    it, or its time is up.

    An `async def` handler is cancelled then, and one in a process killed; a plain `def` handler in
    a thread has to look here.
    """
    interruption: BaseException | None
    """Why, if that makes a failed attempt: `JobCancelled` or `JobTimedOut`."""
    lock_until: float
    """Until when the lock was extended by hand, on the monotonic clock; 0: it was not."""
    phase: Literal["held", "running", "in a thread", "ended"]
    """Where its handler is: not begun, running, running where nothing can interrupt it, or done."""
    lost: bool
    """The job is somebody else's now: whatever the handler returns is of no use."""
    serial: int
    """The how-manieth job of its worker this is."""
    task: asyncio.Task[None] | None

    def __init__(self, host: JobHost, snapshot: JobSnapshot, token: str) -> None:
        self._host = host
        self.snapshot = snapshot
        self.queue = snapshot.queue
        self.id = snapshot.id
        self.token = token
        self.data = None
        self.opts = {}
        self.cancelled = False
        self.interruption = None
        self.phase = "held"
        self.lock_until = 0.0
        self.lost = False
        self.task = None
        self.serial = 0

    def decode(self) -> None:
        """Read data and options. Raises `Undecodable`, naming the field."""
        fields = self.snapshot.fields
        field = "data"
        try:
            self.data = msgspec.json.decode(fields.get(b"data") or b"null")
            field = "opts"
            opts: Json = msgspec.json.decode(fields.get(b"opts") or b"{}")
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise Undecodable(f"the stored {field!r} is not JSON: {error}") from None
        if not isinstance(opts, dict):
            raise Undecodable("the stored 'opts' is not a JSON object")
        self.opts = long_names(opts)

    def __repr__(self) -> str:
        return f"<ActiveJob {self.queue}/{self.id} {self.name!r} attempt {self.attempt}>"

    @property
    def ref(self) -> JobRef:
        """Queue and id."""
        return JobRef(self.queue, self.id)

    @property
    def name(self) -> str:
        """What kind of job it is."""
        return self.snapshot.name

    @property
    def attempt(self) -> int:
        """Which attempt this is, from 1."""
        return self.snapshot.attempts_made + 1

    @property
    def starts(self) -> int:
        """How often it was picked up, this time included; also when that counted no attempt."""
        return self.snapshot.attempts_started

    @property
    def parent(self) -> ParentRef | None:
        """The job that waits for this one."""
        return self.snapshot.parent

    @property
    def settings(self) -> SettingsView:
        """The settings that were stored with this job."""
        return self.snapshot.settings

    def get(self, path: str, kind: type[T]) -> T | None:
        """The value at a dotted `path` of the data if it is there and of that type, else None."""
        return self.snapshot.get(path, kind)

    @property
    def shutting_down(self) -> bool:
        """The worker is stopping; what will not be done within its grace time is better left."""
        return self._host.stopping

    @property
    def sync(self) -> SyncActiveJob:
        """The methods below for a plain `def` handler: they block its thread."""
        return SyncActiveJob(self, self._host)

    @property
    def cancel_reason(self) -> str | None:
        """Why the handler is to end, if somebody cancelled the job or its time is up."""
        return None if self.interruption is None else str(self.interruption)

    async def extend_lock(self, duration: timedelta | str) -> None:
        """Keep the job this worker's for `duration` from now, even if nothing renews its lock.

        The worker renews locks by itself; this is for code that stops all of its threads, such as
        a C function that keeps Python's global lock for minutes. Should the worker die, others
        recover the job only when the time has passed.

        Raises:
            LockLost: The job is no longer this worker's.
            ValueError: Not a duration, or none at all.
        """
        self._check()
        ms = milliseconds(duration)
        if not ms:
            raise ValueError("a lock is extended by more than nothing")
        await self._host.extend_lock(self, ms)

    async def log(self, line: str) -> int:
        """Add a line to the job's log. Returns how many lines it has now. Raises `LockLost`."""
        self._check()
        return await self._host.log(self, line)

    async def clear_logs(self, *, keep: int = 0) -> None:
        """Remove the job's log lines but for the newest `keep`. Raises `LockLost`."""
        self._check()
        await self._host.clear_logs(self, keep)

    async def progress(self, value: Json) -> None:
        """Report progress, any JSON value. Raises `LockLost`."""
        self._check()
        await self._host.progress(self, value)

    async def update(self, data: Json) -> None:
        """Replace the job's data, also for its later attempts. Raises `LockLost`."""
        self._check()
        await self._host.update(self, data)
        self.data = data

    async def add_children(self, children: Sequence[NewJob | Flow]) -> list[JobRef]:
        """Add jobs that this job can wait for by raising `WaitForChildren`.

        A `NewJob` goes to this job's queue, a `Flow` with all its children to the one it names.
        What a child's final failure does to this job is said by the child's `on_failure`.

        Raises:
            LockLost: The job is no longer this worker's.
            InvalidJob, Reject, PluginError, ServerError: As for `Queue.add`.
        """
        self._check()
        return await self._host.add_children(self, children)

    async def children(self) -> Dependencies:
        """The children by what became of them: results, failures, and those still open."""
        return await self._host.children(self)

    async def children_counts(self) -> dict[DependencyKind, int]:
        """How many children there are of each kind; see `Job.children_page` for the kinds."""
        return await self._host.children_counts(self)

    async def children_page(
        self, kind: DependencyKind, *, cursor: str = "0", count: int = 200
    ) -> DependencyPage:
        """Some of the children of one kind, for a job with very many; see `Job.children_page`."""
        return await self._host.children_page(self, kind, cursor, count)

    async def remove_unprocessed_children(self) -> Removals:
        """Remove the children that have not ended; see `Job.remove_unprocessed_children`.

        What a worker is running stays. Raises `LockLost`, `Reject`.
        """
        self._check()
        return await self._host.remove_unprocessed_children(self)

    async def ask_host(self, name: str, *arguments: Any) -> Any:
        """Do what `JobHost` calls `name`, for a handler in another process. Raises `LockLost`."""
        self._check()
        if name not in _OF_THE_HOST:
            raise AttributeError(f"a job's host has no {name!r}")
        asked: Any = getattr(self._host, name)
        return asked if isinstance(asked, bool) else await asked(self, *arguments)

    def _check(self) -> None:
        if self.lost:
            raise LockLost(
                f"job {self.id!r} of queue {self.queue!r} is no longer this worker's",
                queue=self.queue,
                job_id=self.id,
            )


class SyncActiveJob:
    """The methods of `ActiveJob` for a plain `def` handler, which runs in a thread."""

    __slots__ = ("_host", "_job")

    def __init__(self, job: ActiveJob, host: JobHost) -> None:
        self._job = job
        self._host = host

    def _wait(self, work: Coroutine[Any, Any, T]) -> T:
        try:
            asyncio.get_running_loop()
        except RuntimeError:
            return asyncio.run_coroutine_threadsafe(work, self._host.loop).result()
        work.close()
        raise RuntimeError("job.sync would block the event loop; await the job's own methods")

    def extend_lock(self, duration: timedelta | str) -> None:
        """See `ActiveJob.extend_lock`."""
        self._wait(self._job.extend_lock(duration))

    def log(self, line: str) -> int:
        """See `ActiveJob.log`."""
        return self._wait(self._job.log(line))

    def progress(self, value: Json) -> None:
        """See `ActiveJob.progress`."""
        self._wait(self._job.progress(value))

    def update(self, data: Json) -> None:
        """See `ActiveJob.update`."""
        self._wait(self._job.update(data))

    def add_children(self, children: Sequence[NewJob | Flow]) -> list[JobRef]:
        """See `ActiveJob.add_children`."""
        return self._wait(self._job.add_children(children))

    def children(self) -> Dependencies:
        """See `ActiveJob.children`."""
        return self._wait(self._job.children())

    def children_counts(self) -> dict[DependencyKind, int]:
        """See `ActiveJob.children_counts`."""
        return self._wait(self._job.children_counts())

    def children_page(
        self, kind: DependencyKind, *, cursor: str = "0", count: int = 200
    ) -> DependencyPage:
        """See `ActiveJob.children_page`."""
        return self._wait(self._job.children_page(kind, cursor=cursor, count=count))

    def remove_unprocessed_children(self) -> Removals:
        """See `ActiveJob.remove_unprocessed_children`."""
        return self._wait(self._job.remove_unprocessed_children())

    def clear_logs(self, *, keep: int = 0) -> None:
        """See `ActiveJob.clear_logs`."""
        self._wait(self._job.clear_logs(keep=keep))
