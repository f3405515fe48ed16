"""The ends of attempts: those that are under way to the server, and what it said to them."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from toril.protocol.finishing import FAILED_CHILDREN, OPEN_CHILDREN, Finish
from toril.worker.active_job import ActiveJob
from toril.worker.runner import FailedChildren, OpenChildren, Runner
from toril.worker.slots import Slots

log = logging.getLogger("toril.worker")


class Ends:
    """Follows the end of each attempt until the job is no longer held.

    Args:
        queue: The queue's name.
        slots: The jobs held.
        runner: Says how an attempt ends that was refused its end.
    """

    def __init__(self, queue: str, slots: Slots, runner: Runner) -> None:
        self._queue = queue
        self._slots = slots
        self._runner = runner
        self._again: set[ActiveJob] = set()  # ends that were refused once for open children
        self._postponed: list[tuple[ActiveJob, Finish]] = []  # such ends, not yet sent again
        self.under_way: set[ActiveJob] = set()
        """Jobs whose end has been sent."""
        self.given_back = 0
        """Jobs given back unfinished."""

    def sent(self, ended: Sequence[tuple[ActiveJob, Finish]]) -> None:
        """The server is being told of these ends."""
        for job, _ in ended:
            self.under_way.add(job)

    def settle(
        self, ended: Sequence[tuple[ActiveJob, Finish]], codes: Sequence[int], *, alone: bool
    ) -> None:
        """Take note of what became of them. `alone`: no other call is under way."""
        if self._postponed:
            self._slots.ended.extend(self._postponed)
            self._postponed.clear()
        for (job, finish), code in zip(ended, codes, strict=True):
            self.under_way.discard(job)
            if code >= 0:
                self._slots.forget(job)
                if job.cancelled:
                    self.given_back += finish.kind == "wait"
            else:
                self._refused(job, finish, code, alone=alone)

    def _refused(self, job: ActiveJob, finish: Finish, code: int, *, alone: bool) -> None:
        if code == OPEN_CHILDREN and job not in self._again:
            # The end of a child may be behind its parent's, in this call or in another one.
            self._again.add(job)
            waiting = self._slots.ended if alone else self._postponed
            waiting.append((job, finish))
            return
        self._again.discard(job)
        if code in (OPEN_CHILDREN, FAILED_CHILDREN):
            error = OpenChildren(job.id) if code == OPEN_CHILDREN else FailedChildren(job.id)
            job.interruption = error
            self._slots.ended.append((job, self._runner.failed(job, error)))
        else:
            # Somebody else has the job, or it is gone, or garbled: the stalled check sees to it.
            log.warning(
                "job %s/%s: its end was refused (%s); it is no longer this worker's",
                self._queue, job.id, code,
            )  # fmt: skip
            job.lost = job.cancelled = True
            self._slots.forget(job)
