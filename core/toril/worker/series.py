"""The runs of schedules: a worker that picks one up adds the next."""

from __future__ import annotations

import logging

from toril.protocol.effects import Effects
from toril.runtime import Runtime
from toril.snapshots import JobSnapshot
from toril.worker.insist import insist

log = logging.getLogger("toril.worker")


class Series:
    """Carries the schedules of one queue on.

    Args:
        runtime: Where it works.
        queue_key: What the queue's keys begin with.
    """

    def __init__(self, runtime: Runtime, queue_key: str) -> None:
        self._runtime = runtime
        self._key = queue_key

    async def go_on(self, job: JobSnapshot, schedule: str) -> None:
        """Add the run that follows `job`, unless that has been done, or it was the last.

        A schedule whose next time cannot be told here ends, with an error in the log.
        """
        # Most queues have no schedules, and would wait for this when they start.
        from toril.protocol.scheduling import next_run, repetition_of
        from toril.schedule import due_after, is_over

        runtime, now = self._runtime, self._runtime.clock.now_ms()
        try:
            repetition = repetition_of(job)
            if not repetition or is_over(repetition, now):
                return
            due = None
            if "every" not in repetition:
                due = due_after(repetition, _time_of(job.id), now)
                if due is None:
                    return
            call = next_run(
                self._key, job, schedule, due=due, now=now, wants=runtime.dispatcher.wants
            )
        except ValueError:
            log.exception(
                "schedule %r of queue %s ends: its next run cannot be added", schedule, job.queue
            )
            return
        effects: Effects[int | None] = await insist(runtime.executor, call)
        runtime.dispatcher.note(effects)
        await runtime.dispatcher.publish(effects.events)


def _time_of(id: str) -> int | None:
    """When a run was due, which its id tells."""
    due = id.rpartition(":")[2]
    return int(due) if due.isdecimal() else None
