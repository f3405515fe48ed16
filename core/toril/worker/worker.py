"""A worker: runs the jobs of one queue with one handler."""

from __future__ import annotations

import asyncio
import inspect
from dataclasses import replace
from datetime import timedelta
from typing import TYPE_CHECKING, Self, Unpack

from toril.duration import milliseconds
from toril.setting import Setting
from toril.settings import on_this_host, say
from toril.worker.options import WorkerOptions, count, terms
from toril.worker.runner import Handler
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
        self._handler = handler
        self._terms = terms(**options)
        source = on_this_host("app.worker")
        self._said = say("worker", settings, source, app.runtime.clock.now_ms())
        self._session: Session | None = None
        self._background: asyncio.Task[None] | None = None
        self._given_back = 0

    def __repr__(self) -> str:
        return f"<Worker {self.queue!r} concurrency={self.concurrency}>"

    @property
    def concurrency(self) -> int:
        """How many jobs it runs at once."""
        return self._terms.concurrency

    @property
    def running(self) -> tuple[str, ...]:
        """The ids of the jobs it holds now."""
        held = () if self._session is None else list(self._session.slots.held)
        return tuple(job.id for job in held)

    @property
    def is_running(self) -> bool:
        """Whether it is at work: `run` was called and has not returned."""
        return self._session is not None

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
            self._terms = replace(self._terms, concurrency=count("concurrency", concurrency))
        if grace is not None:
            self._terms = replace(self._terms, grace_ms=milliseconds(grace))

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
            self.app, self.queue, self._handler,
            said=self._said, terms=self._terms, burst=burst,
        )  # fmt: skip
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
        ms = self._terms.grace_ms if grace is None else milliseconds(grace)
        session.stop.ask(ms / 1000)
        await session.ended.wait()

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
        ready = asyncio.ensure_future(self._ready())
        await asyncio.wait((ready, self._background), return_when=asyncio.FIRST_COMPLETED)
        ready.cancel()
        if self._background.done():
            self._background.result()
        return self

    async def _ready(self) -> None:
        if self._session is not None:
            await self._session.ready.wait()

    async def __aexit__(self, *error: object) -> None:
        background, self._background = self._background, None
        await self.stop()
        if background is not None:
            await background


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
