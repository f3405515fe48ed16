"""The worker's engine: a loop over one value, the batch.

Each turn tells the server in one call what has ended since the last turn, and picks up as many jobs
as there are free slots. It is sent as soon as the previous one returned, so that a lone job waits
for nobody and a busy worker pays one round trip for many. That happens in the very step in which a
reply is read or the last running job ends (`_act`); while others run, a turn of the loop later.

The engine's own task (`run`) is there to wait, which it does only when a turn brought nothing and
nothing has ended: for the time at which a delayed job is due, or for the next job that comes, for
which one of the free slots is kept.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Sequence
from contextvars import Context, copy_context
from functools import partial
from typing import Final

from toril.clock import Clock
from toril.protocol.finishing import MOST_FETCHED, Finish
from toril.worker.active_job import ActiveJob, JobHost
from toril.worker.ends import Ends
from toril.worker.outside import Batch, Outside, Turn, UnderWay
from toril.worker.runner import Runner, give_back
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
        self._turns: set[UnderWay] = set()
        self._context: Context | None = None  # in which calls are made, while `run` goes on
        self._under_way = 0
        self._broken: BaseException | None = None
        self._ends = Ends(queue, slots, runner)
        self._hungry = True  # there may be jobs to pick up
        self._quiet = self._paused = False
        self._finishing = False
        self._watching = False  # for one job, which has a slot reserved
        self._idle_said = False
        self._due: int | None = None  # when the earliest delayed job is due
        self._longest_limited = longest_limited
        self._limited_until = 0.0
        self.resize(slots.size)

    @property
    def given_back(self) -> int:
        """Jobs given back unfinished."""
        return self._ends.given_back

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
        self._context = copy_context()
        try:
            while self._broken is None:
                slots.changed.clear()
                self._send_all()
                if self._under_way:
                    await slots.changed.wait()
                elif self._finishing and not slots.held and await self._nothing_comes():
                    return
                else:
                    await self._wait()
            raise self._broken
        finally:
            self._context = None
            for turn in tuple(self._turns):
                turn.cancel()

    def _act(self) -> None:
        """Something ended or came: send what there is to send, in this very step.

        `run` looks only if it may have to wait for something else than the next reply or end.
        """
        if self._context is not None:
            self._send_all()
        waits = self._under_way or self._slots.busy >= self._slots.size
        if self._quiet or self._broken is not None or not waits:
            self._slots.changed.set()

    def _send_all(self) -> None:
        while self._broken is None and self._under_way < self._lanes:
            batch = self._next_batch()
            if batch is None:
                return
            self._send(batch)

    def _next_batch(self) -> Batch | None:
        """What is to be done now, if anything."""
        slots = self._slots
        if slots.busy >= slots.size and not (slots.ended or self._watching):
            return None
        limited = time.monotonic() < self._limited_until
        may_fetch = not (limited or self._shut)
        looks = may_fetch and (self._hungry or self._is_due())
        if self._watching:
            unwanted = self._quiet or self._paused or limited
            if unwanted or slots.free < (1 if looks else 0):  # it holds the only free slot
                self._outside.recall()
            if unwanted:
                return None  # else it would take a job that this call puts back
        ended = slots.take_ended()
        free = slots.free if may_fetch else 0
        if ended:
            return Batch(ended, min(free, self._share) if free > 0 else 0)
        return Batch((), min(free, self._share)) if looks and free > 0 else None

    def _send(self, batch: Batch) -> None:
        self._under_way += 1
        self._ends.sent(batch.ended)
        if batch.fetch:
            if self._due is not None:
                self._looked(self._clock.now_ms())
            self._hungry = False
            self._slots.reserved += batch.fetch
        turn = self._outside.take_turn(batch, partial(self._answered, batch))
        if not turn.ended:
            self._turns.add(turn)

    def _answered(self, batch: Batch, turn: UnderWay) -> None:
        self._turns.discard(turn)
        self._under_way -= 1
        self._slots.reserved -= batch.fetch
        self._slots.freed.set()
        try:
            came = turn.result()
            self._ends.settle(batch.ended, came.reply.codes, alone=not self._under_way)
            self._take_in(batch, came)
        except BaseException as error:  # noqa: BLE001 - raised by `run`
            self._broken = error
        self._act()

    def came(self, turn: Turn | None) -> None:
        """The wait for a job has ended. None: nobody has looked for one."""
        self._watching = False
        self._slots.reserved -= 1
        if turn is None:
            self._hungry = True
        else:
            self._looked(turn.reply.at)
            self._take_in(_ONE, turn)
        self._slots.freed.set()
        self._act()

    def _looked(self, at: int) -> None:
        """Jobs that were due at that time have been looked for."""
        if self._due is not None and self._due <= at:
            self._due = None

    def _is_due(self) -> bool:
        return self._due is not None and self._clock.now_ms() >= self._due

    def _take_in(self, batch: Batch, turn: Turn) -> None:
        """Note what the server said of the jobs to come, and start what was picked up."""
        reply = turn.reply
        jobs: list[ActiveJob] = []
        for snapshot in reply.jobs:
            job = self._job_type(self._host, snapshot, turn.token)
            self._slots.start(job)
            jobs.append(job)
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
                self.look()
        if finish is None:
            return
        if self._slots.busy or self._context is None:  # others may end in time for the same call
            self._slots.changed.set()
        else:
            self._context.copy().run(self._act)

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
            if job in self._slots.held and job not in self._ends.under_way:
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
