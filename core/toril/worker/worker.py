"""A worker: runs the jobs of one queue with one handler."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from functools import partial
from typing import TYPE_CHECKING, Self, Unpack

from toril.duration import milliseconds
from toril.errors import JobCancelled
from toril.setting import Setting
from toril.settings import on_this_host, say
from toril.worker.active_job import ActiveJob
from toril.worker.invoking import Handler, Invoker, invoker_of
from toril.worker.options import PoolTerms, WorkerOptions, count, terms
from toril.worker.session import Session

if TYPE_CHECKING:
    from toril.app import App


class Worker:
    """Runs the jobs of one queue. Made by `app.worker(queue, handler)`; starts nothing by itself.

        worker = app.worker("emails", send, concurrency=20)

        await worker.run()          # until `stop` is called
        async with worker: ...      # meanwhile

    or the command `toril worker module:app`.

    Args:
        app: Where it works.
        queue: The queue's name.
        handler: What runs a job: `async def` on the event loop, or plain `def` in a thread. It
            gets the job as an `ActiveJob`; what it returns is the job's result. It steers its job
            by raising `Unrecoverable`, `RetryIn` or `WaitForChildren`; any other error is a failed
            attempt.
        settings: What this worker says for the queue's jobs; what the queue says goes before it.
        options: See `WorkerOptions`.

    Raises:
        ConfigurationError: The queue's name is empty or has a colon.
        TypeError: An unknown option, or a value of the wrong type.
        ValueError: A value out of range.
    """

    def __init__(
        self,
        app: App,
        queue: str,
        handler: Handler,
        /,
        *settings: Setting,
        **options: Unpack[WorkerOptions],
    ) -> None:
        _check_handler(handler)
        app.context.key(queue)
        self.app = app
        self.queue = queue
        self._terms = terms(**options)
        self._invoking: Callable[[], Invoker] = partial(invoker_of, handler)
        if self._terms.pool is not None:
            self._invoking = _pooled(handler, self._terms.pool)
        source = on_this_host("app.worker")
        self._said = say("worker", settings, source, app.runtime.clock.now_ms())
        self._session: Session | None = None
        self._background: asyncio.Task[None] | None = None
        self._given_back = 0
        self._paused = False

    def __repr__(self) -> str:
        return f"<Worker {self.queue!r} concurrency={self.concurrency}>"

    @property
    def concurrency(self) -> int:
        """How many jobs it runs at once. Can be set, also while it runs.

        With a smaller number the jobs beyond it go on until they end. Setting it raises `TypeError`
        or `ValueError` for anything but a whole number of at least 1.
        """
        return self._terms.concurrency

    @concurrency.setter
    def concurrency(self, value: int) -> None:
        self._terms = replace(self._terms, concurrency=count("concurrency", value))
        if self._session is not None:
            self._session.engine.resize(value)

    @property
    def running(self) -> tuple[str, ...]:
        """The ids of the jobs it holds now."""
        return tuple(job.id for job in self._held())

    @property
    def is_running(self) -> bool:
        """Whether it is at work: `run` was called and has not returned."""
        return self._session is not None

    @property
    def is_paused(self) -> bool:
        """Whether `pause` was called, and `resume` not since."""
        return self._paused

    @property
    def given_back(self) -> int:
        """How many jobs it returned unfinished when it stopped, in its last run."""
        return self._given_back

    def configure(
        self, *, concurrency: int | None = None, grace: timedelta | str | None = None
    ) -> None:
        """Change options before it runs, as the command line does; None leaves one as it is.

        Raises `RuntimeError` if it is running, else what the constructor raises.
        """
        if self._session is not None:
            raise RuntimeError("a running worker cannot be configured")
        if concurrency is not None:
            self.concurrency = concurrency
        if grace is not None:
            self._terms = replace(self._terms, grace_ms=milliseconds(grace, "grace"))

    async def run(self, *, burst: bool = False) -> None:
        """Work until `stop` is called.

        Cancelling it gives back at once what is running.

        Args:
            burst: Stop when nothing is left that could be run now. Delayed jobs are not waited for.

        Raises:
            RuntimeError: It is running already.
            ConfigurationError: Something configured cannot work, or the server will not let it.
            ServerUnavailable: The server cannot be reached at the start. (Later on the worker waits
                for it to come back.)
        """
        if self._session is not None:
            raise RuntimeError("this worker is running already")
        session = self._session = Session(
            self.app, self.queue, self._invoking(),
            said=self._said, terms=self._terms, burst=burst,
        )  # fmt: skip
        if self._paused:
            session.engine.pause()
        try:
            await session.run()
        finally:
            self._given_back = session.engine.given_back
            self._session = None
            session.ended.set()

    async def stop(self, *, grace: timedelta | str | None = None) -> None:
        """Pick up no more jobs, let those that run finish, and return when the worker has ended.

        What is not finished in time is cancelled and given back, to be run by another worker; that
        counts no attempt. A second call can only shorten the time.

        Args:
            grace: How long running jobs may go on; None: as the worker was told. `"0s"`: not at
                all.
        """
        session = self._session
        if session is None:
            return
        ms = self._terms.grace_ms if grace is None else milliseconds(grace, "grace")
        session.stop.ask(ms / 1000)
        await session.ended.wait()

    async def pause(self, *, wait: bool = True) -> None:
        """Pick up no more jobs until `resume`; the queue's other workers go on.

        A worker that does not run begins paused.

        Args:
            wait: Return only when the jobs that run have ended.
        """
        self._paused = True
        if self._session is not None:
            self._session.engine.pause()
            if wait:
                await self._session.engine.idle()

    def resume(self) -> None:
        """Pick up jobs again after `pause`."""
        self._paused = False
        if self._session is not None:
            self._session.engine.resume()

    def cancel(self, id: str, reason: str = "cancelled") -> bool:
        """End this worker's run of a job; see `cancel_all`. False if it does not run it now."""
        return any(self._cancel(job, reason) for job in self._held() if job.id == id)

    def cancel_all(self, reason: str = "cancelled") -> int:
        """End this worker's run of all its jobs. Returns how many there are.

        An `async def` handler gets `asyncio.CancelledError` with the reason; a plain `def` handler
        in a thread finds `job.cancelled` and `job.cancel_reason`, and has to look. What the handler
        makes of it counts: a value that it returns is the result. If it lets the cancellation
        through, the attempt fails with `JobCancelled`, whose text is the reason, and attempts that
        are left are made; `raise Unrecoverable` ends the job instead.
        """
        return sum(self._cancel(job, reason) for job in self._held())

    def _held(self) -> list[ActiveJob]:
        return [] if self._session is None else list(self._session.slots.held)

    def _cancel(self, job: ActiveJob, reason: str) -> bool:
        if self._session is None or job.phase == "ended":
            return False
        error = JobCancelled(reason, queue=job.queue, job_id=job.id)
        self._session.engine.cancel(job, error)
        return True

    def quiet(self) -> None:
        """Pick up no more jobs; those that run go on. Only `stop` ends it then."""
        if self._session is not None:
            self._session.engine.quiet()

    def look(self) -> None:
        """Look for jobs now, as if one had just been added; for whoever moved the App's clock."""
        if self._session is not None:
            self._session.engine.look()

    async def __aenter__(self) -> Self:
        self._background = asyncio.create_task(self.run())
        await asyncio.sleep(0)  # `run` has made its session then, or failed
        ready = asyncio.ensure_future(self.ready())
        await asyncio.wait((ready, self._background), return_when=asyncio.FIRST_COMPLETED)
        ready.cancel()
        if self._background.done():
            self._background.result()
        return self

    async def ready(self) -> None:
        """Wait until the worker that was told to run picks up jobs."""
        if self._session is not None:
            await self._session.ready.wait()

    async def __aexit__(self, *error: object) -> None:
        background, self._background = self._background, None
        await self.stop()
        if background is not None:
            await background


def _pooled(handler: Handler, pool: PoolTerms) -> Callable[[], Invoker]:
    """Makes what runs the handler in processes. Raises `TypeError` if it cannot be imported."""
    from toril.worker.processes import InProcesses, importable

    return partial(
        InProcesses,
        importable(handler),
        recycle_after=pool.recycle_after,
        recycle_above=pool.recycle_above,
    )


def _check_handler(handler: object) -> None:
    """Raise `TypeError` for what cannot be called with a job."""
    if not callable(handler):
        raise TypeError(f"a handler is a function of one argument, not {handler!r}")
    try:
        signature = inspect.signature(handler)
    except ValueError:
        return  # some built-in functions have none
    try:
        signature.bind(object())
    except TypeError:
        name = getattr(handler, "__name__", repr(handler))
        raise TypeError(
            f"a handler is a function of one argument, the job; {name}{signature} is not"
        ) from None
