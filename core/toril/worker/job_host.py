"""What running jobs can do on the server, with the lock that proves they may."""

from __future__ import annotations

import asyncio
import copy
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, TypeVar

from toril.arguments import text, whole_number
from toril.connection.call import Call, only
from toril.errors import JobNotFound, JobStateError, LockLost
from toril.flow import Flow
from toril.job_operations import JobOperations
from toril.new_job import JobOptions, NewJob
from toril.protocol.changing import add_log, clear_logs, update_data, update_progress
from toril.protocol.codec import encode_json, valid_text
from toril.protocol.dependencies import (
    Dependencies,
    DependencyKind,
    DependencyPage,
    dependencies,
)
from toril.protocol.effects import Effects
from toril.protocol.finishing import Finish
from toril.protocol.locking import renew, wait_children
from toril.removals import Removals
from toril.snapshots import JobRef
from toril.types import Json
from toril.worker.active_job import ActiveJob
from toril.worker.insist import insist
from toril.worker.runner import FailedChildren, Runner, give_back
from toril.worker.stop import Stop

if TYPE_CHECKING:
    from toril.app import App

T = TypeVar("T")
N = TypeVar("N", NewJob, Flow)


class AppJobHost:
    """The `JobHost` of one worker."""

    def __init__(self, app: App, queue: str, stop: Stop, lock_ms: int) -> None:
        self._app = app
        self._runtime = app.runtime
        self._queue = queue
        self._key = app.context.key(queue)
        self._stop = stop
        self._lock_ms = lock_ms
        self.loop = asyncio.get_running_loop()

    @property
    def stopping(self) -> bool:
        return self._stop.asked

    async def update(self, job: ActiveJob, data: Json, /) -> None:
        text = encode_json(data)
        await self._write(job, update_data(self._key, job.id, text, token=job.token))

    async def progress(self, job: ActiveJob, value: Json, /) -> None:
        text = encode_json(value, "progress")
        await self._write(job, update_progress(self._key, job.id, text, token=job.token))

    async def log(self, job: ActiveJob, line: str, /) -> int:
        keep = job.opts.get("keepLogs")
        keep_logs = keep if isinstance(keep, int) else None
        line = valid_text(text(line, "a log line"))
        return await self._write(
            job, add_log(self._key, job.id, line, keep_logs=keep_logs, token=job.token)
        )

    async def clear_logs(self, job: ActiveJob, keep: int, /) -> None:
        whole_number(keep, "keep")
        await self._write(job, clear_logs(self._key, job.id, keep_logs=keep, token=job.token))

    async def extend_lock(self, job: ActiveJob, ms: int, /) -> None:
        job.lock_until = time.monotonic() + ms / 1000
        ms = max(ms, self._lock_ms)
        if await self._runtime.drive(only(renew(self._key, [(job.id, job.token)], ms))):
            job.lost = True
            raise LockLost(
                f"the lock of job {job.id!r} of queue {job.queue!r} is gone or another's",
                queue=job.queue, job_id=job.id,
            )  # fmt: skip

    async def _write(self, job: ActiveJob, call: Call[T]) -> T:
        try:
            result: T = await self._runtime.drive(only(call))
        except (LockLost, JobNotFound):
            job.lost = True
            raise
        return result

    async def add_children(
        self, job: ActiveJob, children: Sequence[NewJob | Flow], /
    ) -> list[JobRef]:
        plain = [_below(child, job.ref) for child in children if isinstance(child, NewJob)]
        added = iter(await self._app.queue(self._queue).add_many(plain) if plain else ())
        refs: list[JobRef] = []
        for child in children:
            if isinstance(child, NewJob):
                refs.append(next(added).ref)
            else:
                root = await self._app.add_flow(_below(child, job.ref))
                refs.append(root.ref)
        return refs

    async def children(self, job: ActiveJob, /) -> Dependencies:
        return await self._runtime.drive(dependencies(self._key, job.id))

    async def children_counts(self, job: ActiveJob, /) -> dict[DependencyKind, int]:
        return await self._runtime.drive(self._operations(job).children_counts())

    async def children_page(
        self, job: ActiveJob, kind: DependencyKind, cursor: str, count: int, /
    ) -> DependencyPage:
        return await self._runtime.drive(self._operations(job).children_page(kind, cursor, count))

    async def remove_unprocessed_children(self, job: ActiveJob, /) -> Removals:
        return await self._app.perform(self._operations(job).remove_unprocessed_children())

    def _operations(self, job: ActiveJob) -> JobOperations:
        return JobOperations(self._app.context, job.queue, job.id)

    async def put_aside(self, job: ActiveJob, runner: Runner) -> Finish | None:
        """Let the job wait for its children. Returns None if it does, else how it ends instead."""
        try:
            with self._runtime.lanes.call() as record:
                effects: Effects[bool] = await insist(
                    self._runtime.executor,
                    wait_children(
                        self._key,
                        job.id,
                        job.token,
                        now=self._runtime.clock.now_ms(),
                        record=record,
                    ),
                )
        except (LockLost, JobNotFound):
            job.lost = True
            return None
        except JobStateError:
            return runner.failed(job, FailedChildren(job.id))
        self._runtime.dispatcher.note(effects)
        return None if effects.value else give_back(job)


def _below(child: N, parent: JobRef) -> N:
    """The same job or flow as a child of `parent`."""
    copied = copy.copy(child)
    options: JobOptions = {**child.options, "parent": parent}
    object.__setattr__(copied, "options", options)
    return copied
