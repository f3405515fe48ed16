"""Running one job: from its stored fields to the way in which its attempt is to be ended."""

from __future__ import annotations

import asyncio
import contextvars
import inspect
import logging
from collections.abc import Awaitable, Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeAlias, cast

from toril.duration import milliseconds
from toril.errors import LockLost, RetryIn, Unrecoverable, WaitForChildren
from toril.protocol.codec import encode_json
from toril.protocol.finishing import Finish
from toril.protocol.replies import text
from toril.snapshots import JobSnapshot
from toril.types import Json
from toril.worker.active_job import ActiveJob, Undecodable
from toril.worker.deferred import deferred_finish
from toril.worker.retry import BackoffFunction, retry_delay
from toril.worker.traces import reason_of, with_trace

log = logging.getLogger("toril.worker")

Handler: TypeAlias = "Callable[[ActiveJob], Awaitable[Json]] | Callable[[ActiveJob], Json]"
"""What runs a job: `async def` on the event loop, or plain `def` in a thread."""

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


def runs_on_loop(handler: Handler) -> bool:
    """Whether the handler is `async def`: a function, or an object with such a `__call__`."""
    call = getattr(handler, "__call__", None)  # noqa: B004 - looked at, not called
    return inspect.iscoroutinefunction(handler) or inspect.iscoroutinefunction(call)


class Runner:
    """Runs jobs with one handler.

    Args:
        handler: See `Handler`.
        threads: How many plain `def` handlers run at once.
        backoffs: The worker's own backoff functions, by name.
        put_aside: See `PutAside`.
        go_on: See `GoOn`.
        is_recent: Whether a job is one of those of its worker that were picked up last.
    """

    def __init__(
        self,
        handler: Handler,
        *,
        threads: int,
        backoffs: Mapping[str, BackoffFunction],
        put_aside: PutAside,
        go_on: GoOn,
        is_recent: Callable[[ActiveJob], bool],
    ) -> None:
        self.on_loop = runs_on_loop(handler)
        self._handler = cast("Callable[[ActiveJob], Any]", handler)
        self._threads = None if self.on_loop else ThreadPoolExecutor(threads, "toril-job")
        self._backoffs = backoffs
        self._put_aside = put_aside
        self._go_on = go_on
        self._is_recent = is_recent

    def close(self) -> None:
        """Let the threads go; one that is still in a handler goes when that returns."""
        if self._threads is not None:
            self._threads.shutdown(wait=False)

    async def run(self, job: ActiveJob) -> Finish | None:
        """Run the job. Returns how its attempt ends, or None if the server need not be told."""
        finish: Finish | None
        try:
            schedule = job.snapshot.fields.get(b"rjk")
            if schedule is not None:
                await self._go_on(job.snapshot, text(schedule))
            deferred = job.snapshot.deferred_failure
            if deferred is not None:
                return self._deferred(job, deferred)
            job.decode()
            if self.on_loop:
                result = await self._handler(job)
            else:
                result = await self._in_thread(job)
            finish = self._completed(job, result)
        except (Exception, SystemExit, asyncio.CancelledError) as error:  # noqa: BLE001 - a guard
            finish = await self._ended_by(job, error)
        return None if job.lost else finish

    def _deferred(self, job: ActiveJob, reason: str) -> Finish:
        finish = deferred_finish(job.snapshot, job.token, reason, from_head=self._is_recent(job))
        _log_failure(job, finish.value, Unrecoverable(reason), None)
        return finish

    async def _in_thread(self, job: ActiveJob) -> Any:
        context = contextvars.copy_context()
        loop = asyncio.get_running_loop()
        result: Any = await loop.run_in_executor(
            self._threads, lambda: context.run(self._guarded, job)
        )
        return await result if inspect.isawaitable(result) else result

    def _guarded(self, job: ActiveJob) -> Any:
        try:
            return self._handler(job)
        except StopIteration as error:  # a future cannot hold it, and would never be done
            raise RuntimeError("the handler raised StopIteration") from error

    def _completed(self, job: ActiveJob, result: Any) -> Finish:
        text = "null" if result is None else encode_json(result, "the result")
        recent = self._is_recent(job)
        return Finish(job.snapshot, job.token, "completed", text, from_head=recent)

    async def _ended_by(self, job: ActiveJob, error: BaseException) -> Finish | None:
        """How the attempt ends after the handler raised `error`."""
        if job.lost:
            return None
        match error:
            case asyncio.CancelledError() if job.cancelled:
                return give_back(job)
            case WaitForChildren():
                return await self._put_aside(job)
            case RetryIn():
                return self._retry_in(job, error)
            case LockLost(job_id=job.id):
                return give_back(job)
            case _:
                return self.failed(job, error)

    def _retry_in(self, job: ActiveJob, signal: RetryIn) -> Finish:
        try:
            delay = milliseconds(signal.delay)
        except (TypeError, ValueError) as error:
            return self.failed(job, error)
        return Finish(job.snapshot, job.token, "delay", delay_ms=delay, skip_attempt=True)

    def failed(self, job: ActiveJob, error: BaseException) -> Finish:
        """The attempt has failed with `error`: for good, or to be tried again."""
        delay = None
        if not isinstance(error, Unrecoverable | Undecodable):
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
