"""Ways of running a handler: on the event loop, or in a thread."""

from __future__ import annotations

import asyncio
import contextvars
import inspect
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Final, Protocol, TypeAlias, cast

from toril.types import Json
from toril.worker.active_job import ActiveJob

Handler: TypeAlias = "Callable[[ActiveJob], Awaitable[Json]] | Callable[[ActiveJob], Json]"
"""What runs a job: `async def` on the event loop, or plain `def` in a thread; with `processes`,
either of them in a process of its own."""

_MOST_THREADS: Final = 2**16
"""No limit: a thread is started when a job needs one, and it is the slots that are counted."""


@dataclass(frozen=True, slots=True)
class EncodedResult:
    """What a handler returned, as JSON text already."""

    text: str


class Room(Protocol):
    """The slots of a worker, as far as a way of running its handler has to do with them."""

    @property
    def size(self) -> int:
        """How many jobs may be run at once."""
        ...

    def resize(self, size: int, /) -> None:
        """Change that."""
        ...

    async def released(self, job: ActiveJob, /) -> None:
        """Wait until the job is no longer held: the server has taken note of its end."""
        ...


class Invoker:
    """One way of running a handler; a new one for each run of a worker."""

    interruptible = True
    """The handler ends when the task that awaits `call` is cancelled."""
    job_type: type[ActiveJob] = ActiveJob
    """What it gives to the handler."""
    call: Callable[[ActiveJob], Awaitable[Any]]
    """Runs the handler with a job. Raises what it raises."""

    async def start(self, room: Room) -> None:
        """Get ready. Raises `ConfigurationError` if the handler cannot be run."""

    async def close(self) -> None:
        """Let go of everything; no handler is waited for."""

    def empty_handed(self) -> None:
        """There was nothing to pick up for the slots that are free."""


class HandlerByJob(Protocol):
    """A handler that says for each job where it is to be run."""

    def runs_on_loop(self, job: ActiveJob, /) -> bool:
        """On the event loop, and not in a thread."""
        ...

    def __call__(self, job: ActiveJob, /) -> Any:
        """Run the job; what it returns is awaited if that can be done."""
        ...


def runs_on_loop(handler: Callable[..., object]) -> bool:
    """Whether the handler is `async def`: a function, or an object with such a `__call__`."""
    call = getattr(handler, "__call__", None)  # noqa: B004 - looked at, not called
    return inspect.iscoroutinefunction(handler) or inspect.iscoroutinefunction(call)


def invoker_of(handler: Handler) -> Invoker:
    """How the handler is run in this process."""
    if hasattr(handler, "runs_on_loop"):
        return ByJob(cast(HandlerByJob, handler))
    if runs_on_loop(handler):
        return OnLoop(cast("Callable[[ActiveJob], Awaitable[Any]]", handler))
    return InThreads(cast("Callable[[ActiveJob], Any]", handler))


class OnLoop(Invoker):
    """Runs an `async def` handler on the event loop of the worker."""

    def __init__(self, handler: Callable[[ActiveJob], Awaitable[Any]]) -> None:
        self.call = handler


class InThreads(Invoker):
    """Runs a plain `def` handler in a thread; what it returns is awaited if that can be done."""

    interruptible = False

    def __init__(self, handler: Callable[[ActiveJob], Any]) -> None:
        self._handler = handler
        self._threads = ThreadPoolExecutor(_MOST_THREADS, "toril-job")
        self.call = self._call

    async def close(self) -> None:
        """Let the threads go; one that is still in a handler goes when that returns."""
        self._threads.shutdown(wait=False)

    async def _call(self, job: ActiveJob) -> Any:
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


class ByJob(InThreads):
    """Runs each job where its handler says: on the event loop, or in a thread."""

    interruptible = True

    def __init__(self, handler: HandlerByJob) -> None:
        super().__init__(handler)
        self._runs_on_loop = handler.runs_on_loop

    async def _call(self, job: ActiveJob) -> Any:
        if self._runs_on_loop(job):
            result = self._handler(job)
            return await result if inspect.isawaitable(result) else result
        job.phase = "in a thread"  # and so cannot be interrupted
        return await super()._call(job)
