"""What can be done with one job, each operation once, as a procedure. See `operations`."""

from __future__ import annotations

from datetime import datetime, timedelta

from toril.arguments import limit_of, text, whole_number
from toril.connection.call import Procedure, only
from toril.context import Context
from toril.errors import ConfigurationError, JobStateError
from toril.new_job import checked_priority, delay_after
from toril.protocol import changing, dependencies, erasing, reading, trees
from toril.protocol.codec import encode_json, valid_text
from toril.protocol.erasing import Traces
from toril.protocol.keys import queue_name
from toril.removals import Removals
from toril.snapshots import JobSnapshot, ParentRef
from toril.types import Json, State


class JobOperations:
    """The operations of one job."""

    def __init__(self, context: Context, queue: str, id: str, prefix: str | None = None) -> None:
        self._context = context
        self._queue = queue
        self._id = text(id, "the id of a job")
        self._prefix = context.other(prefix)
        self._key = context.key(queue, prefix)

    def read(self) -> Procedure[JobSnapshot]:
        """The job as it is stored now."""
        found = yield from self._context.job_at(self._key, self._id)
        if found is None:
            raise self._context.job_not_found(self._queue, self._id)
        return found

    def state(self) -> Procedure[State]:
        """In which state it is."""
        return only(reading.state(self._key, self._id))

    def retry(self, *, reset_attempts: bool, reset_started: bool) -> Procedure[None]:
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
            reset_started=reset_started,
            wants=self._context.plugins.wants,
        )

    def promote(self) -> Procedure[None]:
        """Let the delayed job run now."""
        return only(changing.promote_job(self._key, self._id))

    def change_delay(self, delay: timedelta | str | datetime) -> Procedure[None]:
        """Give the delayed job another delay."""
        now = self._context.clock.now_ms()
        return self._change_delay(delay_after(delay, now), now)

    def _change_delay(self, delay_ms: int, now: int) -> Procedure[None]:
        with self._context.lanes.call() as record:
            yield changing.change_delay(self._key, self._id, delay_ms, now=now, record=record)

    def change_priority(self, priority: int, *, lifo: bool) -> Procedure[None]:
        """Give the job another priority."""
        return self._change_priority(checked_priority(priority), lifo=lifo)

    def _change_priority(self, priority: int, *, lifo: bool) -> Procedure[None]:
        with self._context.lanes.call() as record:
            yield changing.change_priority(self._key, self._id, priority, lifo=lifo, record=record)

    def unlink(self) -> Procedure[bool]:
        """Take the job off its parent."""
        with self._context.lanes.call() as record:
            unlinked: bool = yield trees.unlink(self._key, self._id, record=record)
            return unlinked

    def remove_unprocessed_children(self) -> Procedure[Removals]:
        """Remove the children that have not ended, with those below them."""
        context = self._context
        children = yield from trees.unprocessed_children(self._key, self._id)
        if not children:
            yield from self.read()  # raises if it does not exist
        ids: dict[str, list[str]] = {}
        for key, id in children:
            ids.setdefault(queue_name(key), []).append(id)
        for queue, some in ids.items():
            context.ask_before_removal(queue, "operator", ids=some)
        now, wants = context.clock.now_ms(), context.plugins.wants
        return (yield from trees.remove_unprocessed(self._key, children, now=now, wants=wants))

    def remove(self, *, children: bool) -> Procedure[bool]:
        """Remove the job, with all jobs below it if asked."""
        context = self._context
        context.ask_before_removal(self._queue, "operator", ids=(self._id,))
        return (
            yield from trees.remove_job(
                self._key,
                self._id,
                with_children=children,
                now=context.clock.now_ms(),
                wants=context.plugins.wants,
            )
        )

    def erase(self, parent: ParentRef | None) -> Procedure[Traces]:
        """Erase the job and what names it on the server. `parent`: its, if the job may be gone."""
        context = self._context
        if self._prefix is not None:
            raise ConfigurationError(
                f"job {self._id!r} of queue {self._queue!r} is under the prefix {self._prefix!r}; "
                "erase it with an App of that prefix, whose plugins know it"
            )
        context.ask_before_removal(self._queue, "erase", ids=(self._id,))
        with context.lanes.call() as record:
            return (
                yield from erasing.erase(
                    self._key,
                    self._id,
                    parent_key=None if parent is None else f"{parent.queue_key}:{parent.id}",
                    now=context.clock.now_ms(),
                    record=record,
                    wants=context.plugins.wants,
                )
            )

    def remove_deduplication(self, id: str | None) -> Procedure[bool]:
        """Close the deduplication window `id` if the job owns it."""
        if id is None:
            return False
        closed: bool = yield changing.close_window(self._key, id, owner=self._id)
        return closed

    def update(self, data: Json) -> Procedure[None]:
        """Replace its payload."""
        return only(changing.update_data(self._key, self._id, encode_json(data)))

    def progress(self, value: Json) -> Procedure[None]:
        """Report its progress."""
        encoded = encode_json(value, "progress")
        return only(changing.update_progress(self._key, self._id, encoded))

    def log(self, line: str, keep: int | None) -> Procedure[int]:
        """Add a line to its log."""
        checked = valid_text(text(line, "a log line"))
        most = limit_of(keep, "keep")
        return only(changing.add_log(self._key, self._id, checked, keep_logs=most))

    def clear_logs(self, keep: int) -> Procedure[None]:
        """Remove its log lines but for the newest."""
        whole_number(keep, "keep")
        return only(changing.clear_logs(self._key, self._id, keep_logs=keep))

    def logs(self, limit: int | None, skip: int) -> Procedure[tuple[str, ...]]:
        """Its newest log lines, oldest first."""
        limit_of(limit, least=0)
        whole_number(skip, "skip")
        return self._logs(limit, skip)

    def _logs(self, limit: int | None, skip: int) -> Procedure[tuple[str, ...]]:
        if limit == 0:
            return ()
        first = 0 if limit is None else -(limit + skip)
        found: reading.Logs = yield reading.logs(self._key, self._id, first, -1 - skip)
        return found.lines

    def children(self) -> Procedure[dependencies.Dependencies]:
        """Its children, by what became of them."""
        return dependencies.dependencies(self._key, self._id)

    def children_counts(self) -> Procedure[dict[dependencies.DependencyKind, int]]:
        """How many children of each kind it has."""
        return only(dependencies.dependency_counts(self._key, self._id))

    def children_page(
        self, kind: dependencies.DependencyKind, cursor: str, count: int
    ) -> Procedure[dependencies.DependencyPage]:
        """Some of its children of one kind."""
        if kind not in dependencies.DEPENDENCY_KINDS:
            known = ", ".join(dependencies.DEPENDENCY_KINDS)
            raise ValueError(f"there is no kind {kind!r} of children; there are {known}")
        whole_number(count, "count", least=1)
        if not cursor.isdecimal():
            raise ValueError(f"{cursor!r} is no cursor of a page of children")
        return only(dependencies.dependency_page(self._key, self._id, kind, cursor, count))

    def parent(self, parent: ParentRef | None) -> Procedure[JobSnapshot | None]:
        """The job that waits for it."""
        if parent is None:
            return None
        return (yield from self._context.job_at(parent.queue_key, parent.id))
