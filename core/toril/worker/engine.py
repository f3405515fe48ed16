"""The worker's engine: a loop over one value, the batch.

Each turn tells the server in one call what has ended since the last turn, and picks up as many jobs
as there are free slots. It is sent as soon as the previous one returned, so that a lone job waits
for nobody and a busy worker pays one round trip for many. Only when a turn brought nothing and
nothing has ended does the engine wait: for a job to end, for the time at which a delayed job is
due, or for the next job that comes, for which one of the free slots is kept.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Sequence
from typing import Final

from toril.clock import Clock
from toril.protocol.finishing import (
    FAILED_CHILDREN,
    MOST_FETCHED,
    OPEN_CHILDREN,
    Finish,
)
from toril.worker.active_job import ActiveJob, JobHost
from toril.worker.outside import Batch, Outside, Turn
from toril.worker.runner import FailedChildren, OpenChildren, Runner, give_back
from toril.worker.slots import Slots
from toril.worker.start import start

log = logging.getLogger("toril.worker")

_TWO_LANES: Final = 8
"""From that concurrency on two calls may be under way at once: the server works on one while this
process works on what the other brought."""

_ONE: Final = Batch((), 1)
_TO_RECALL: Final = 1.0
"""Seconds that a stopping worker waits for the reply to a fetch that was sent ahead."""


class Engine:
    """Fetches, runs and finishes the jobs of one queue.

    Args:
        queue: The queue's name.
        host: What the jobs are given to work with.
        runner: Runs one job.
        slots: The jobs held.
        outside: What does everything that goes beyond this process.
        clock: For the times at which delayed jobs are due.
        lanes: How many calls may be under way at once; None: as many as suit the slots.
        longest_limited: Seconds after which a rate-limited worker asks whether it still is.
        burst: Stop when there is nothing left to run.
        job_type: What the jobs are made as.
    """

    def __init__(
        self,
        *,
        queue: str,
        host: JobHost,
        runner: Runner,
        slots: Slots,
        outside: Outside,
        clock: Clock,
        lanes: int | None = None,
        longest_limited: float = 30.0,
        burst: bool = False,
        job_type: type[ActiveJob] = ActiveJob,
    ) -> None:
        self._job_type = job_type
        self._queue = queue
        self._host = host
        self._runner = runner
        self._slots = slots
        self._outside = outside
        self._clock = clock
        self._fixed_lanes = lanes
        self._burst = burst
        self._turns: set[asyncio.Task[None]] = set()
        self._under_way = 0
        self._broken: BaseException | None = None
        self._ending: set[ActiveJob] = set()  # their end is under way to the server
        self._hungry = True  # there may be jobs to pick up
        self._quiet = self._paused = False
        self._finishing = False
        self._watching = False  # for one job, which has a slot reserved
        self._idle_said = False
        self._due: int | None = None  # when the earliest delayed job is due
        self._longest_limited = longest_limited
        self._limited_until = 0.0
        self._again: set[ActiveJob] = set()  # ends that were refused once for open children
        self._postponed: list[tuple[ActiveJob, Finish]] = []  # such ends, not yet sent again
        self.given_back = 0
        """Jobs given back unfinished."""
        self.resize(slots.size)

    @property
    def _shut(self) -> bool:
        """Whether no jobs are to be picked up now."""
        return self._quiet or self._paused or self._outside.crowded

    def look(self) -> None:
        """There may be jobs to pick up."""
        self._hungry = True
        self._slots.changed.set()

    def expect(self, due: int) -> None:
        """A job will be due at this time, in milliseconds since the epoch."""
        if self._due is None or due < self._due:
            self._due = due
            self._slots.changed.set()

    def resize(self, size: int) -> None:
        """From now on run up to `size` jobs at once; those beyond that go on until they end."""
        self._slots.size = size
        self._lanes = self._fixed_lanes or (2 if size >= _TWO_LANES else 1)
        self._share = min(MOST_FETCHED, -(-size // self._lanes))  # slots that one call may fill
        self.look()

    @property
    def size(self) -> int:
        """How many jobs may be run at once."""
        return self._slots.size

    async def released(self, job: ActiveJob) -> None:
        """Wait until the job is no longer held."""
        while job in self._slots.held:
            self._slots.freed.clear()
            await self._slots.freed.wait()

    def pause(self) -> None:
        """Pick up no more jobs until `resume`."""
        self._paused = True
        self._slots.changed.set()

    def resume(self) -> None:
        """Pick up jobs again."""
        self._paused = False
        self.look()

    async def idle(self) -> None:
        """Wait until no job is held nor about to be."""
        slots = self._slots
        while slots.held or slots.reserved:
            slots.freed.clear()
            await slots.freed.wait()

    def cancel(self, job: ActiveJob, error: BaseException) -> None:
        """End this run of a job; its attempt fails with `error`."""
        self._runner.interrupt(job, error)

    def quiet(self) -> None:
        """Pick up no more jobs."""
        self._quiet = True
        self._slots.changed.set()

    def finish(self) -> None:
        """Pick up no more jobs, and end `run` when those that run are finished."""
        self._finishing = True
        self.quiet()

    async def run(self) -> None:
        """Work until told to finish, or in a burst until nothing is left."""
        slots = self._slots
        try:
            while self._broken is None:
                slots.changed.clear()
                batch = self._next_batch() if self._under_way < self._lanes else None
                if batch is not None:
                    await self._send(batch)
                elif self._under_way:
                    await slots.changed.wait()
                elif self._finishing and not slots.held and await self._nothing_comes():
                    return
                else:
                    await self._wait()
            raise self._broken
        finally:
            for turn in self._turns:
                turn.cancel()

    def _next_batch(self) -> Batch | None:
        """What is to be done now, if anything."""
        limited = time.monotonic() < self._limited_until
        may_fetch = not (limited or self._shut)
        looks = may_fetch and (self._hungry or self._is_due())
        if self._watching:
            unwanted = self._quiet or self._paused or limited
            if unwanted or self._slots.free < (1 if looks else 0):  # it holds the only free slot
                self._outside.recall()
            if unwanted:
                return None  # else it would take a job that this call puts back
        ended = self._slots.take_ended()
        free = self._slots.free if may_fetch else 0
        if ended:
            return Batch(ended, min(free, self._share) if free > 0 else 0)
        return Batch((), min(free, self._share)) if looks and free > 0 else None

    async def _send(self, batch: Batch) -> None:
        """Take a turn; wait for its end only if there is no other lane, or no use for it yet."""
        alone = self._lanes == 1 or not (self._slots.held or self._under_way)
        self._under_way += 1
        self._ending.update(job for job, _ in batch.ended)
        if batch.fetch:
            if self._due is not None:
                self._looked(self._clock.now_ms())
            self._hungry = False
            self._slots.reserved += batch.fetch
        if alone:
            await self._turn(batch)
        else:
            turn = start(self._turn(batch))
            self._turns.add(turn)
            turn.add_done_callback(self._turn_ended)

    async def _turn(self, batch: Batch) -> None:
        try:
            turn = await self._outside.take_turn(batch)
        finally:
            self._under_way -= 1
            self._slots.reserved -= batch.fetch
            self._slots.changed.set()
            self._slots.freed.set()
        self._slots.ended.extend(self._postponed)
        self._postponed.clear()
        self._settle(batch, turn.reply.codes)
        self._take_in(batch, turn)

    def _turn_ended(self, turn: asyncio.Task[None]) -> None:
        self._turns.discard(turn)
        if not turn.cancelled() and turn.exception() is not None:
            self._broken = turn.exception()
            self._slots.changed.set()

    def came(self, turn: Turn | None) -> None:
        """The wait for a job has ended. None: nobody has looked for one."""
        self._watching = False
        self._slots.reserved -= 1
        if turn is None:
            self._hungry = True
        else:
            self._looked(turn.reply.at)
            self._take_in(_ONE, turn)
        self._slots.changed.set()
        self._slots.freed.set()

    def _looked(self, at: int) -> None:
        """Jobs that were due at that time have been looked for."""
        if self._due is not None and self._due <= at:
            self._due = None

    def _is_due(self) -> bool:
        return self._due is not None and self._clock.now_ms() >= self._due

    def _settle(self, batch: Batch, codes: Sequence[int]) -> None:
        """Take note of what became of the attempts that ended."""
        for (job, finish), code in zip(batch.ended, codes, strict=True):
            self._ending.discard(job)
            if code >= 0:
                self._slots.forget(job)
                if job.cancelled:
                    self.given_back += finish.kind == "wait"
            else:
                self._refused(job, finish, code)

    def _refused(self, job: ActiveJob, finish: Finish, code: int) -> None:
        if code == OPEN_CHILDREN and job not in self._again:
            # The end of a child may be behind its parent's, in this batch or in another lane's.
            self._again.add(job)
            waiting = self._postponed if self._under_way else self._slots.ended
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

    def _take_in(self, batch: Batch, turn: Turn) -> None:
        """Note what the server said of the jobs to come, and start what was picked up."""
        reply = turn.reply
        jobs = [self._job_type(self._host, snapshot, turn.token) for snapshot in reply.jobs]
        for job in jobs:
            self._slots.start(job)
        self._outside.hold(self._slots.held)
        for dropped in reply.dropped:
            log.warning(
                "job %s/%s does not exist any more; its id was dropped", self._queue, dropped
            )
        if reply.limited_ms is not None:
            self._limit(reply.limited_ms)
        if batch.fetch:
            self._hungry |= reply.more
            if reply.next_due_ms is not None:
                self.expect(reply.next_due_ms)
            if self._burst and not (self._hungry or self._slots.held or self._under_way):
                self.finish()
        for job in jobs:
            job.task = start(self._work(job))

    def _limit(self, ms: int) -> None:
        """Pick up no jobs for so long."""
        seconds = min(ms / 1000, self._longest_limited)
        self._hungry, self._limited_until = True, time.monotonic() + seconds

    async def _work(self, job: ActiveJob) -> None:
        if job.task is None:  # it began at once, before whoever began it could say so
            job.task = asyncio.current_task()
        finish: Finish | None = None
        try:
            finish = await self._runner.run(job)
            if finish is not None and finish.hold_ms:
                self._limit(finish.hold_ms)  # already while the server is being told
        finally:
            self._slots.stop(job, finish)
            if finish is None:  # its slot is free although no call will say so
                self._hungry = True

    async def _wait(self) -> None:
        """Until something has changed, or there may be jobs to pick up."""
        slots = self._slots
        if self._shut or not (slots.free > 0 or self._watching):
            await (self._room() if self._outside.crowded else slots.changed.wait())
            return
        if slots.free > 0:
            self._outside.empty_handed()
        if not (self._idle_said or slots.held):
            self._idle_said = True
            log.info("queue %s: nothing to do, waiting for jobs", self._queue)
        seconds = self._limited_until - time.monotonic()
        if seconds <= 0:
            self._watch()
            if self._due is None:
                await slots.changed.wait()
                return
            seconds = (self._due - self._clock.now_ms()) / 1000
        timer = asyncio.get_running_loop().call_later(max(seconds, 0), slots.changed.set)
        try:
            await slots.changed.wait()
        finally:
            timer.cancel()

    def _watch(self) -> None:
        """Have one job fetched as soon as there is one, unless that is being done already."""
        if not self._watching:
            self._watching = True
            self._slots.reserved += 1
            self._outside.watch()

    async def _nothing_comes(self) -> bool:
        """Wait until no job can come any more; False: look again."""
        if not self._watching:
            return True
        try:
            async with asyncio.timeout(_TO_RECALL):
                await self._slots.changed.wait()
        except TimeoutError:
            log.warning(
                "queue %s: the server does not say whether it handed out a job before the worker "
                "stopped; it would be recovered as stalled", self._queue,
            )  # fmt: skip
            return True
        return False

    async def _room(self) -> None:
        """Until something has changed, or the plugins have caught up."""
        waits = [
            asyncio.ensure_future(self._slots.changed.wait()),
            asyncio.ensure_future(self._outside.room()),
        ]
        await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        for wait in waits:
            wait.cancel()
        self._hungry = True

    def lose(self, jobs: Sequence[ActiveJob]) -> None:
        """The locks of these jobs are gone: stop what runs without a right to."""
        for job in jobs:
            if job in self._slots.held and job not in self._ending:
                log.warning("job %s/%s: its lock was lost", self._queue, job.id)
                job.lost = True
                self._slots.forget(job)
                self._runner.interrupt(job)

    def cancel_all(self) -> None:
        """Interrupt what runs; it is given back."""
        for job in self._slots.held:
            self._runner.interrupt(job)

    def abandon_all(self) -> None:
        """Give back what still runs, although it cannot be interrupted."""
        ended = {job for job, _ in self._slots.ended}
        for job in list(self._slots.held):
            if job.task is not None and not job.task.done() and job not in ended:
                job.lost = True
                self._slots.ended.append((job, give_back(job)))
        self._slots.changed.set()
