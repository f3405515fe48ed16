"""Running one job: from its stored fields to the way in which its attempt is to be ended."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from contextlib import AbstractContextManager
from typing import Any, Final, TypeAlias

import msgspec

from toril.arguments import whole_number
from toril.duration import duration_text, milliseconds
from toril.errors import (
    JobTimedOut,
    LockLost,
    RateLimited,
    RetryIn,
    Unrecoverable,
    WaitAgain,
    WaitForChildren,
)
from toril.options import TIMEOUT_OPTION
from toril.protocol.codec import encode_json
from toril.protocol.finishing import Finish
from toril.protocol.replies import text
from toril.snapshots import JobSnapshot
from toril.worker.active_job import ActiveJob, Undecodable
from toril.worker.deferred import deferred_finish
from toril.worker.invoking import EncodedResult, Invoker
from toril.worker.retry import BackoffFunction, retry_delay
from toril.worker.time_limits import TimeLimits
from toril.worker.traces import reason_of, with_trace

log = logging.getLogger("toril.worker")

STARTED_TOO_OFTEN: Final = "job started more than allowable limit"
"""The reason of a job that was picked up more often than it may be. The text is BullMQ's."""

PutAside: TypeAlias = "Callable[[ActiveJob], Awaitable[Finish | None]]"
"""Puts a job aside until its children are done. Returns None if that is done, else what instead."""

GoOn: TypeAlias = "Callable[[JobSnapshot, str], Awaitable[None]]"
"""Adds the job that follows a run of a schedule."""


class OpenChildren(Exception):
    """A job was to be completed while children of it are open. The text is BullMQ's."""

    def __init__(self, id: str) -> None:
        super().__init__(f"Job {id} has pending dependencies. moveToFinished")


class FailedChildren(Unrecoverable):
    """A job was to be completed although children of it have failed. The text is BullMQ's."""

    def __init__(self, id: str) -> None:
        super().__init__(
            f"Cannot complete job {id} because it has at least one failed child. moveToFinished"
        )


class Runner:
    """Runs jobs with one handler.

    Args:
        invoker: Runs the handler.
        backoffs: The worker's own backoff functions, by name.
        timeout_ms: How long a handler may run, in milliseconds, unless its job says otherwise.
        most_starts: How often a job may be picked up; None: as often as it comes.
        put_aside: See `PutAside`.
        go_on: See `GoOn`.
        is_recent: Whether a job is one of those of its worker that were picked up last.
        around: What is to be entered while a handler runs the job.
    """

    def __init__(
        self,
        invoker: Invoker,
        *,
        backoffs: Mapping[str, BackoffFunction],
        timeout_ms: int | None = None,
        most_starts: int | None = None,
        put_aside: PutAside,
        go_on: GoOn,
        is_recent: Callable[[ActiveJob], bool],
        around: Callable[[JobSnapshot], AbstractContextManager[None]],
    ) -> None:
        self._invoker = invoker
        self._call = invoker.call
        self._backoffs = backoffs
        self._timeout_ms = timeout_ms
        self._most_starts = most_starts
        self._put_aside = put_aside
        self._go_on = go_on
        self._is_recent = is_recent
        self._around = around
        self._limits = TimeLimits(lambda job, limit: self.interrupt(job, _time_is_up(job, limit)))

    def close(self) -> None:
        """Forget the time limits; nothing runs any more."""
        self._limits.close()

    async def run(self, job: ActiveJob) -> Finish | None:
        """Run the job. Returns how its attempt ends, or None if the server need not be told."""
        finish: Finish | None
        try:
            schedule = job.snapshot.fields.get(b"rjk")
            if schedule is not None:
                await self._go_on(job.snapshot, text(schedule))
            refused = self._refused(job)
            if refused is not None:
                return self._deferred(job, refused)
            job.decode()
            finish = self._completed(job, await self._handled(job))
        except (Exception, SystemExit, asyncio.CancelledError) as error:  # noqa: BLE001 - a guard
            finish = await self._ended_by(job, error)
        return None if job.lost else finish

    def _deferred(self, job: ActiveJob, reason: str) -> Finish:
        finish = deferred_finish(job.snapshot, job.token, reason, from_head=self._is_recent(job))
        _log_failure(job, finish.value, Unrecoverable(reason), None)
        return finish

    def _refused(self, job: ActiveJob) -> str | None:
        """Why the job must fail without a run, if it must."""
        if self._most_starts is None and b"defa" not in job.snapshot.fields:
            return None
        deferred = job.snapshot.deferred_failure
        if deferred is None and self._most_starts is not None:
            return STARTED_TOO_OFTEN if job.starts > self._most_starts else None
        return deferred

    async def _handled(self, job: ActiveJob) -> Any:
        """What the handler returns, unless its time is up before."""
        if job.cancelled:  # before its handler was begun
            raise asyncio.CancelledError
        limit = _own_timeout(job) or self._timeout_ms
        if limit is not None:
            self._limits.begin(job, limit)
        job.phase = "running"
        try:
            with self._around(job.snapshot):
                result = await self._call(job)
        finally:
            job.phase = "ended"
            if limit is not None:
                self._limits.end(job)
        if isinstance(job.interruption, JobTimedOut):
            raise job.interruption
        return result

    def interrupt(self, job: ActiveJob, error: BaseException | None = None) -> None:
        """End the job's handler.

        `error`: what its attempt fails with; None: nobody needs to know how it ends. A handler in a
        thread is only told: it goes on until it returns.
        """
        job.cancelled = True
        if job.interruption is None:
            job.interruption = error
        if job.phase == "running" and self._invoker.interruptible and job.task is not None:
            job.task.cancel(job.cancel_reason)

    def _completed(self, job: ActiveJob, result: Any) -> Finish:
        if isinstance(result, EncodedResult):
            text = result.text
        else:
            text = "null" if result is None else encode_json(result, "the result")
        recent = self._is_recent(job)
        return Finish(job.snapshot, job.token, "completed", text, from_head=recent)

    async def _ended_by(self, job: ActiveJob, error: BaseException) -> Finish | None:
        """How the attempt ends after the handler raised `error`."""
        if job.lost:
            return None
        error = _interrupted(job, error)
        match error:
            case asyncio.CancelledError() if job.cancelled:
                return give_back(job)
            case WaitForChildren():
                return await self._put_aside(job)
            case RetryIn() | RateLimited():
                return self._put_off(job, error)
            case WaitAgain() | LockLost(job_id=job.id):
                return give_back(job)
            case _:
                return self.failed(job, error)

    def _put_off(self, job: ActiveJob, signal: RetryIn | RateLimited) -> Finish:
        try:
            delay = milliseconds(signal.delay)
            if isinstance(signal, RateLimited):
                return msgspec.structs.replace(
                    give_back(job), hold_ms=whole_number(delay, "RateLimited: ms", least=1)
                )
        except (TypeError, ValueError) as error:
            return self.failed(job, error)
        return Finish(job.snapshot, job.token, "delay", delay_ms=delay, skip_attempt=True)

    def failed(self, job: ActiveJob, error: BaseException) -> Finish:
        """The attempt has failed with `error`: for good, or to be tried again."""
        delay = None
        again = self._most_starts is None or job.starts < self._most_starts
        if again and not isinstance(error, Unrecoverable | Undecodable):
            delay = retry_delay(job, error, self._backoffs)
        reason = reason_of(error)
        _log_failure(job, reason, error, delay)
        return Finish(
            job.snapshot,
            job.token,
            "failed" if delay is None else "delay" if delay else "retry",
            reason,
            stacktrace=with_trace(job.snapshot, error, job.opts.get("stackTraceLimit")),
            delay_ms=delay or 0,
            lifo=job.opts.get("lifo") is True,
            from_head=self._is_recent(job),
        )


def _own_timeout(job: ActiveJob) -> int | None:
    """How long the job itself says that its handler may run, in milliseconds."""
    limit = job.opts.get(TIMEOUT_OPTION)
    return limit if isinstance(limit, int) and limit > 0 else None


def _time_is_up(job: ActiveJob, ms: int) -> JobTimedOut:
    return JobTimedOut(
        f"timed out: its handler ran for longer than {duration_text(ms)}",
        queue=job.queue, job_id=job.id,
    )  # fmt: skip


def _interrupted(job: ActiveJob, error: BaseException) -> BaseException:
    """What the attempt fails with: why it was interrupted, with the trace of where it was.

    A handler whose time is up has no say; one that was cancelled may end in another way.
    """
    why = job.interruption
    if isinstance(why, JobTimedOut) or (why and isinstance(error, asyncio.CancelledError)):
        if why is not error:
            why.__cause__ = error
        return why
    return error


def give_back(job: ActiveJob) -> Finish:
    """The job goes back to where it came from, and counts no attempt."""
    return Finish(job.snapshot, job.token, "wait")


def _log_failure(job: ActiveJob, reason: str, error: BaseException, delay: int | None) -> None:
    where, attempt = f"job {job.queue}/{job.id} ({job.name})", job.attempt
    if delay is None:
        log.warning("%s failed for good in attempt %d: %s", where, attempt, reason)
    else:
        log.info("%s failed in attempt %d, next in %d ms: %s", where, attempt, delay, reason)
    log.debug("%s", where, exc_info=error)
