"""The jobs a worker holds: those that run, and those that ended and wait to be finished."""

from __future__ import annotations

import asyncio
from collections import deque
from dataclasses import dataclass, field

from toril.protocol.finishing import MOST_FINISHES, Finish
from toril.worker.active_job import ActiveJob

MOST_RESULT_BYTES = 256 * 1024
"""Bytes of results in one call, unless a single one is larger."""


@dataclass(slots=True)
class Slots:
    """`size` jobs may run at once. A job's slot is free again when its handler has returned.

    `held` are the jobs whose locks this worker has to renew: running ones, and ended ones until
    the server has taken note.
    """

    size: int
    busy: int = 0
    reserved: int = 0
    """Slots for jobs that are being fetched."""
    freed: asyncio.Event = field(default_factory=asyncio.Event)
    """A job is no longer held."""
    held: dict[ActiveJob, None] = field(default_factory=dict["ActiveJob", None])
    ended: deque[tuple[ActiveJob, Finish]] = field(
        default_factory=deque["tuple[ActiveJob, Finish]"]
    )
    _serial: int = 0
    changed: asyncio.Event = field(default_factory=asyncio.Event)
    """A job ended, or something else happened that the engine has to look at."""

    @property
    def free(self) -> int:
        return self.size - self.busy - self.reserved

    def is_recent(self, job: ActiveJob) -> bool:
        """Whether the job is one of the younger half; in the active list it is near the head."""
        oldest = next(iter(self.held), job)
        return 2 * job.serial > oldest.serial + self._serial

    def start(self, job: ActiveJob) -> None:
        self.busy += 1
        self._serial += 1
        job.serial = self._serial
        self.held[job] = None

    def stop(self, job: ActiveJob, finish: Finish | None) -> None:
        """The handler has returned; None: there is nothing to tell the server."""
        self.busy -= 1
        if finish is None:
            self.forget(job)
        else:
            self.ended.append((job, finish))

    def forget(self, job: ActiveJob) -> None:
        """The job is no longer this worker's."""
        self.held.pop(job, None)
        self.freed.set()

    def take_ended(self) -> list[tuple[ActiveJob, Finish]]:
        """What the next call has to finish, in the order in which it ended; no id twice."""
        ended = self.ended
        taken: list[tuple[ActiveJob, Finish]] = []
        ids: set[str] = set()
        size = 0
        while ended and len(taken) < MOST_FINISHES:
            job, finish = ended[0]
            if job not in self.held:  # lost in the meantime
                ended.popleft()
                continue
            size += len(finish.value)
            if taken and (size > MOST_RESULT_BYTES or job.id in ids):
                break
            ended.popleft()
            ids.add(job.id)
            taken.append((job, finish))
        return taken
