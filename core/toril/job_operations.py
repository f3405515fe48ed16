"""What can be done with one job, each operation once, as a procedure. See `operations`."""

from __future__ import annotations

from toril.connection.call import Procedure, only
from toril.context import Context
from toril.errors import JobStateError
from toril.protocol import changing, dependencies, erasing, reading, removing
from toril.protocol.codec import encode_json
from toril.protocol.erasing import Traces
from toril.snapshots import JobSnapshot, ParentRef
from toril.types import Json, State


class JobOperations:
    """The operations of one job."""

    def __init__(self, context: Context, queue: str, id: str) -> None:
        self._context = context
        self._queue = queue
        self._id = id
        self._key = context.key(queue)

    def read(self) -> Procedure[JobSnapshot]:
        """The job as it is stored now."""
        found: JobSnapshot | None = yield reading.job(self._key, self._id)
        if found is None:
            raise self._context.job_not_found(self._queue, self._id)
        return found

    def state(self) -> Procedure[State]:
        """In which state it is."""
        return only(reading.state(self._key, self._id))

    def retry(self, *, reset_attempts: bool) -> Procedure[None]:
        """Let the finished job run again."""
        state: State = yield reading.state(self._key, self._id)
        if state not in ("completed", "failed"):
            yield from self.read()  # raises if it does not exist
            raise JobStateError(
                f"job {self._id!r} of queue {self._queue!r} has not finished: it is {state}",
                queue=self._queue,
                job_id=self._id,
            )
        yield changing.retry_job(
            self._key,
            self._id,
            state,
            reset_attempts=reset_attempts,
            wants=self._context.wants(),
        )

    def promote(self) -> Procedure[None]:
        """Let the delayed job run now."""
        return only(changing.promote_job(self._key, self._id))

    def remove(self, *, children: bool) -> Procedure[bool]:
        """Remove the job, with all jobs below it if asked."""
        context = self._context
        context.ask_before_removal(self._queue, "operator", ids=(self._id,))
        return (
            yield from removing.remove_job(
                self._key,
                self._id,
                with_children=children,
                now=context.clock.now_ms(),
                wants=context.wants(),
            )
        )

    def erase(self, parent: ParentRef | None) -> Procedure[Traces]:
        """Erase the job and what names it on the server. `parent`: its, if the job may be gone."""
        context = self._context
        context.ask_before_removal(self._queue, "erase", ids=(self._id,))
        with context.lanes.call() as record:
            return (
                yield from erasing.erase(
                    self._key,
                    self._id,
                    parent_key=None if parent is None else f"{parent.queue_key}:{parent.id}",
                    now=context.clock.now_ms(),
                    record=record,
                    wants=context.wants(),
                )
            )

    def update(self, data: Json) -> Procedure[None]:
        """Replace its payload."""
        return only(changing.update_data(self._key, self._id, encode_json(data)))

    def progress(self, value: Json) -> Procedure[None]:
        """Report its progress."""
        text = encode_json(value, "progress")
        return only(changing.update_progress(self._key, self._id, text))

    def log(self, line: str, keep_logs: int | None) -> Procedure[int]:
        """Add a line to its log."""
        return only(changing.add_log(self._key, self._id, line, keep_logs=keep_logs))

    def logs(self, limit: int | None) -> Procedure[tuple[str, ...]]:
        """Its newest log lines, oldest first."""
        if limit == 0:
            return ()
        found: reading.Logs = yield reading.logs(self._key, self._id, -(limit or 0), -1)
        return found.lines

    def children(self) -> Procedure[dependencies.Dependencies]:
        """Its children, by what became of them."""
        return dependencies.dependencies(self._key, self._id)

    def parent(self, parent: ParentRef | None) -> Procedure[JobSnapshot | None]:
        """The job that waits for it."""
        if parent is None:
            return None
        found: JobSnapshot | None = yield reading.job(parent.queue_key, parent.id)
        return found
