"""Jobs fetched and ended by hand, for programs that have a loop of their own.

It is a worker all the same: its handler waits until somebody has said how the job ends. So locks,
hooks, retries and the stop are those of any worker.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Unpack

from toril.arguments import whole_number
from toril.duration import milliseconds
from toril.errors import JobStateError, RateLimited, RetryIn, Unrecoverable, WaitForChildren
from toril.protocol.codec import encode_json
from toril.setting import Setting
from toril.snapshots import JobSnapshot
from toril.types import Json
from toril.worker.active_job import ActiveJob, JobHost
from toril.worker.invoking import Invoker, Room
from toril.worker.options import WorkerOptions
from toril.worker.worker import Worker

if TYPE_CHECKING:
    from toril.app import App


class HeldJob(ActiveJob):
    """A job that was fetched by hand: what an `ActiveJob` is and can, and how it ends.

    It is held, and its lock renewed, until one of the methods that end it is called. Each of them
    returns when the server has taken note, and raises `LockLost` if the job is no longer this
    worker's, `JobStateError` if it has been ended before.
    """

    __slots__ = ("_room", "verdict")

    verdict: asyncio.Future[Json]

    def __init__(self, host: JobHost, snapshot: JobSnapshot, token: str) -> None:
        super().__init__(host, snapshot, token)
        self.verdict = asyncio.get_running_loop().create_future()
        self._room: Room | None = None

    def hand_out(self, room: Room) -> None:
        """From now on it is held; `room` tells when it no longer is."""
        self._room = room

    async def complete(self, result: Json = None) -> None:
        """The job is done, with this result.

        Raises:
            InvalidJob: The result cannot be stored as JSON; the job is still held.
            JobStateError: Children of it are open or have failed: the attempt has failed instead.
        """
        encode_json(result, "the result")
        await self._end(result)

    async def fail(self, reason: BaseException | str, *, retry: bool = True) -> None:
        """The attempt has failed; attempts that are left are made.

        Args:
            reason: The error, or its message.
            retry: False: whatever attempts are left, the job fails for good.
        """
        error = reason if isinstance(reason, BaseException) else RuntimeError(reason)
        if not retry:
            final = Unrecoverable(str(error))
            final.__cause__ = error
            error = final
        await self._end(error)

    async def delay(self, duration: timedelta | str) -> None:
        """Let it run again after `duration`; that counts no attempt."""
        milliseconds(duration)
        await self._end(RetryIn(duration))

    async def give_back(self) -> None:
        """Put it back to the head of those that wait, for anybody; that counts no attempt."""
        self.cancelled = True
        await self._end(asyncio.CancelledError())

    async def rate_limit(self, duration: timedelta | str) -> None:
        """Put it back, and let no job begin for `duration`; see `RateLimited`."""
        whole_number(milliseconds(duration), "the time in ms", least=1)
        await self._end(RateLimited(duration))

    async def wait_for_children(self) -> None:
        """Put it aside until its children are done; see `WaitForChildren`."""
        await self._end(WaitForChildren())

    async def _end(self, verdict: Json | BaseException) -> None:
        self._check()
        if self._room is None or self.verdict.done():
            raise self._not_held()
        if isinstance(verdict, BaseException):
            self.verdict.set_exception(verdict)
        else:
            self.verdict.set_result(verdict)
        await self._room.released(self)
        self._check()
        if self.interruption is not None:  # it was refused: children of it are open, or failed
            raise self._not_held() from self.interruption

    def _not_held(self) -> JobStateError:
        why = (
            "is not held any more"
            if self.interruption is None
            else f"has failed: {self.interruption}"
        )
        return JobStateError(
            f"job {self.id!r} of queue {self.queue!r} {why}", queue=self.queue, job_id=self.id
        )


@dataclass(slots=True, eq=False)
class _Waiter:
    """Somebody who wants a job; `impatient`: only if there is one now."""

    answer: asyncio.Future[HeldJob | None]
    impatient: bool


class ByHand(Invoker):
    """Hands jobs out instead of running them. There are as many slots as jobs held and wanted."""

    job_type = HeldJob

    def __init__(self) -> None:
        self.call = self._call
        self._waiting: list[_Waiter] = []
        self._handed_out = 0
        self._room: Room | None = None

    async def start(self, room: Room) -> None:
        self._room = room
        self._resize()

    async def close(self) -> None:
        self._room = None
        for waiter in self._waiting:
            _answer(waiter)

    def empty_handed(self) -> None:
        """Nothing could be picked up: whoever does not want to wait is told."""
        for waiter in self._waiting:
            if waiter.impatient:
                _answer(waiter)

    async def next(self, wait_ms: int | None) -> HeldJob | None:
        """The next job; None if none comes in so many milliseconds, or before the worker stops."""
        loop = asyncio.get_running_loop()
        waiter = _Waiter(loop.create_future(), wait_ms == 0)
        timer = loop.call_later(wait_ms / 1000, _answer, waiter) if wait_ms else None
        self._waiting.append(waiter)
        self._resize()
        try:
            return await waiter.answer
        except asyncio.CancelledError:
            job = None if waiter.answer.cancelled() else waiter.answer.result()
            if job is not None:  # it came at the same moment
                job.cancelled = True
                job.verdict.cancel()
            raise
        finally:
            if timer is not None:
                timer.cancel()
            if waiter in self._waiting:
                self._waiting.remove(waiter)
                self._resize()

    def _resize(self) -> None:
        if self._room is not None:
            self._room.resize(len(self._waiting) + self._handed_out)

    async def _call(self, job: ActiveJob) -> Json:
        waiter = next((one for one in self._waiting if not one.answer.done()), None)
        if waiter is None or self._room is None or not isinstance(job, HeldJob):
            job.cancelled = True  # whoever wanted it has gone
            raise asyncio.CancelledError
        self._waiting.remove(waiter)
        self._handed_out += 1
        job.hand_out(self._room)
        waiter.answer.set_result(job)
        try:
            return await job.verdict
        finally:
            self._handed_out -= 1
            self._resize()


def _answer(waiter: _Waiter, job: HeldJob | None = None) -> None:
    if not waiter.answer.done():
        waiter.answer.set_result(job)


class Fetcher(Worker):
    """Fetches jobs of one queue, to be ended by hand. Made by `app.fetcher(queue)`.

        async with app.fetcher("emails") as fetcher:
            while job := await fetcher.next_job(wait="5s"):
                await job.complete(send(job.data))

    To everybody else it is a worker: its locks are renewed, dashboards show it, its hooks fire.
    What is still held when it stops is given back.

    Args:
        app: Where it works.
        queue: The queue's name.
        settings: What this worker says for the queue's jobs; what the queue says goes before it.
        options: See `WorkerOptions`, without `concurrency`: it holds as many jobs as were fetched.

    Raises what `Worker` raises.
    """

    def __init__(
        self, app: App, queue: str, /, *settings: Setting, **options: Unpack[WorkerOptions]
    ) -> None:
        if "concurrency" in options:
            raise TypeError("a fetcher has no concurrency: it holds as many jobs as you fetch")
        options.setdefault("grace", "0s")
        super().__init__(app, queue, _by_hand, *settings, **options)
        self._invoking = self._hand_out
        self._by_hand = ByHand()

    def __repr__(self) -> str:
        return f"<Fetcher {self.queue!r} holding={len(self.running)}>"

    @property
    def concurrency(self) -> int:
        """How many jobs it holds. Cannot be set."""
        return len(self.running)

    @concurrency.setter
    def concurrency(self, value: int) -> None:
        raise TypeError(f"a fetcher holds as many jobs as you fetch, not {value}")

    def _hand_out(self) -> ByHand:
        self._by_hand = ByHand()
        return self._by_hand

    async def next_job(self, *, wait: timedelta | str | None = None) -> HeldJob | None:
        """The next job, or None. May be called by many tasks at once.

        Args:
            wait: How long to wait for one; `"0s"`: take what is there now; None: until there is
                one or the fetcher stops.

        Raises `RuntimeError` if the fetcher does not run.
        """
        if not self.is_running:
            raise RuntimeError("jobs are fetched while the fetcher runs: `async with fetcher: …`")
        return await self._by_hand.next(None if wait is None else milliseconds(wait, "wait"))


async def _by_hand(job: ActiveJob) -> Json:
    """Stands where a worker has its handler."""
    raise NotImplementedError
