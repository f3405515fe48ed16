"""Adding jobs of one queue from many threads at once: one call for all that came meanwhile."""

from __future__ import annotations

import threading
from collections.abc import Sequence

from toril.add_batches import of_one
from toril.errors import IndeterminateError
from toril.job_events import JobEvent
from toril.new_job import Drafted
from toril.operations import QueueOperations, in_one_call
from toril.protocol.adding import MOST_ADDED, NewNode
from toril.runtime import Runtime
from toril.snapshots import JobSnapshot


class _Waiting:
    """A job that a thread wants to add: woken either with its result, or to make the next call."""

    __slots__ = ("node", "result", "woken")

    def __init__(self, node: NewNode) -> None:
        self.node = node
        self.result: JobSnapshot | Exception | None = None
        self.woken = threading.Event()


class SyncAddBatches:
    """The adds of one queue by the threads of a process, as `AddBatches` does it for tasks.

    One call is under way at a time, made by one of the threads whose jobs are in it. When its reply
    is there, the first of those who came meanwhile makes the next one, for all of them. No thread
    makes more calls than one. Who is interrupted takes back a job that has not been sent.
    """

    def __init__(self, runtime: Runtime, operations: QueueOperations) -> None:
        self._runtime = runtime
        self._operations = operations
        self._lock = threading.Lock()
        self._waiting: list[_Waiting] = []
        self._leader: _Waiting | None = None

    def add(self, drafted: Drafted) -> JobSnapshot:
        """Plan the job, and add it. Raises what `SyncQueue.add` raises."""
        (node,) = self._runtime.perform_sync(
            self._operations.planned((drafted,)), (self._operations.name,)
        )
        mine = _Waiting(node)
        try:
            with self._lock:
                self._waiting.append(mine)
                if self._leader is None:
                    self._leader = mine
            if self._leader is not mine:
                mine.woken.wait()
            if mine.result is None:
                self._send(self._batch())
        finally:
            self._leave(mine)
        if isinstance(mine.result, JobSnapshot):
            return mine.result
        assert mine.result is not None  # noqa: S101 - its batch has been sent
        raise mine.result

    def _batch(self) -> Sequence[_Waiting]:
        """What the next call adds: the leader's job, and those that came after it."""
        with self._lock:
            count = in_one_call([each.node for each in self._waiting[:MOST_ADDED]])
            batch, self._waiting = self._waiting[:count], self._waiting[count:]
        return batch

    def _send(self, batch: Sequence[_Waiting]) -> None:
        nodes = [each.node for each in batch]
        saved: Sequence[JobSnapshot | Exception] = [
            IndeterminateError("the thread that was adding the job was interrupted", (node.id,))
            for node in nodes
        ]
        untold: list[JobEvent] = []
        try:
            try:
                saved = self._runtime.drive_sync(self._operations.save_in_one(nodes), untold)
            except Exception as error:  # noqa: BLE001 - handed to those who wait
                saved = [of_one(error, node) for node in nodes]
            # A plugin may add to this very queue meanwhile, so the next call waits for no plugin.
            self._leave(batch[0])
            if untold:
                self._runtime.dispatcher.publish_sync(untold, self._runtime.run)
        finally:
            for each, result in zip(batch, saved, strict=True):
                each.result = result
            for each in batch:
                each.woken.set()

    def _leave(self, mine: _Waiting) -> None:
        """Wait no more; if the next call was this one's to make, it is the next one's now."""
        with self._lock:
            if mine in self._waiting:
                self._waiting.remove(mine)
            if self._leader is mine:
                self._leader = self._waiting[0] if self._waiting else None
                if self._leader is not None:
                    self._leader.woken.set()
