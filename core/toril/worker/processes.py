"""Running a handler in processes of its own: code that needs the processor, or that may crash.

One job at a time in each; a process that dies takes only its job with it, and one whose job is
interrupted is killed. They have no App: what their job needs of the server, the worker does.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import pickle
import signal
import socket
import sys
from collections.abc import Coroutine
from typing import Any, Final

from toril.errors import ConfigurationError, ProcessDied
from toril.worker.active_job import ActiveJob
from toril.worker.invoking import EncodedResult, Handler, Invoker, Room
from toril.worker.messages import (
    Begin,
    Completed,
    End,
    Failed,
    Logged,
    Ready,
    Reply,
    Request,
    Run,
    read,
    write,
)
from toril.worker.traces import TraceText

log = logging.getLogger("toril.worker")

_BOOT: Final = (
    "import json, sys; sys.path[:] = json.loads(sys.argv[3]); "
    "from toril.worker.child import main; main(int(sys.argv[1]), int(sys.argv[2]))"
)
_TO_END: Final = 2.0
"""Seconds in which a process without a job has to end by itself."""
_MOST_DEAD: Final = 3
"""Processes that may die before they have begun a job until the job fails."""
_AFTER_FAILURE: Final = 1.0
"""Seconds between a process that could not be started and the error of the job that wanted it."""


class ErrorInProcess(Exception):
    """Stands for an error that a handler raised in its process and that cannot leave it.

    The text is that of the error; `kind` is the name of its class.
    """

    def __init__(self, text: str, kind: str) -> None:
        super().__init__(text or kind)
        self.kind = kind


class _NotBegun(Exception):
    """The process died before it called the handler."""


def importable(handler: Handler) -> bytes:
    """How a process finds the handler: pickled, by its module and name.

    Raises `TypeError` if it cannot be found that way.
    """
    name = getattr(handler, "__qualname__", repr(handler))
    module = getattr(handler, "__module__", None)
    where = "put it at the top of a module that can be imported"
    if module == "__main__":
        raise TypeError(
            f"a handler for processes cannot be in the script that was started; {where}: {name}"
        )
    try:
        return pickle.dumps(handler)
    except Exception as error:
        raise TypeError(
            f"a handler for processes is found by its name; {where}: {name} ({error})"
        ) from error


class InProcesses(Invoker):
    """Runs a handler in processes, as many as the worker has slots.

    Args:
        handler: Pickled; see `importable`.
        recycle_after: Jobs after which a process is replaced; None: never.
        recycle_above: Bytes of memory above which it is, once its job has ended; None: never.
    """

    def __init__(
        self, handler: bytes, *, recycle_after: int | None, recycle_above: int | None
    ) -> None:
        self.call = self._call
        self._handler = handler
        self._recycle_after = recycle_after
        self._recycle_above = recycle_above
        self._free: asyncio.LifoQueue[_Child | ProcessDied] = asyncio.LifoQueue()
        self._children: set[_Child] = set()
        self._adding: set[asyncio.Task[None]] = set()
        self._ending: set[asyncio.Task[None]] = set()
        self._closed = False

    async def start(self, room: Room) -> None:
        self._room = room
        starting = [asyncio.create_task(_Child.start(self._handler)) for _ in range(room.size)]
        try:
            for child in await asyncio.gather(*starting):
                self._children.add(child)
                self._free.put_nowait(child)
        except BaseException:
            for task in starting:
                task.cancel()
            for made in await asyncio.gather(*starting, return_exceptions=True):
                if isinstance(made, _Child):
                    await made.end()
            raise

    async def close(self) -> None:
        self._closed = True
        for task in self._adding:
            task.cancel()
        ending = [asyncio.create_task(child.end()) for child in self._children]
        if tasks := [*self._adding, *self._ending, *ending]:
            await asyncio.wait(tasks)

    async def _call(self, job: ActiveJob) -> EncodedResult:
        for _ in range(_MOST_DEAD):
            child = await self._taken()
            with contextlib.suppress(_NotBegun):
                try:
                    return await child.run(job)
                finally:
                    self._back(child)
        raise ProcessDied(f"{_MOST_DEAD} processes died before they began to run it")

    async def _taken(self) -> _Child:
        self._grow()
        while True:
            child = await self._free.get()
            if isinstance(child, ProcessDied):
                raise child
            if child.alive:
                return child
            self._back(child)

    def _back(self, child: _Child) -> None:
        """The process is free again, unless it is to be replaced."""
        spent = (
            (self._recycle_after is not None and child.jobs >= self._recycle_after)
            or (self._recycle_above is not None and child.rss > self._recycle_above)
            or len(self._children) > self._room.size
        )
        if child.alive and not spent:
            self._free.put_nowait(child)
            return
        self._children.discard(child)
        _keep(child.end(), self._ending)
        self._grow()

    def _grow(self) -> None:
        if self._closed:
            return
        for _ in range(self._room.size - len(self._children) - len(self._adding)):
            _keep(self._add(), self._adding)

    async def _add(self) -> None:
        try:
            child = await _Child.start(self._handler)
        except ConfigurationError as error:
            log.error("a process could not be started: %s", error)  # noqa: TRY400 - it tells all
            await asyncio.sleep(_AFTER_FAILURE)
            self._free.put_nowait(ProcessDied(f"the process for it could not be started: {error}"))
        else:
            self._children.add(child)
            self._free.put_nowait(child)


def _keep(work: Coroutine[Any, Any, None], tasks: set[asyncio.Task[None]]) -> None:
    """Run `work` as one of `tasks`."""
    task = asyncio.create_task(work)
    tasks.add(task)
    task.add_done_callback(tasks.discard)


class _Child:
    """One process."""

    def __init__(
        self,
        process: asyncio.subprocess.Process,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
    ) -> None:
        self._process = process
        self._reader = reader
        self._writer = writer
        self._killed = False
        self.jobs = 0
        self.rss = 0

    @property
    def alive(self) -> bool:
        """Whether it can run another job."""
        return not self._killed and self._process.returncode is None

    @classmethod
    async def start(cls, handler: bytes) -> _Child:
        """A process that has imported the handler. Raises `ConfigurationError` if it cannot."""
        ours, theirs = socket.socketpair()
        with theirs:
            process = await asyncio.create_subprocess_exec(
                sys.executable, "-c", _BOOT,
                str(theirs.fileno()), str(os.getpid()), json.dumps(sys.path),
                pass_fds=(theirs.fileno(),), stdin=asyncio.subprocess.DEVNULL,
                start_new_session=True,
            )  # fmt: skip
        child = cls(process, *await asyncio.open_unix_connection(sock=ours))
        try:
            write(child._writer, Begin(handler, logging.getLogger().getEffectiveLevel()))
            said = await child._next()
        except (EOFError, OSError):
            how = await child._how_it_ended()
            raise ConfigurationError(f"a process of the pool did not start: it {how}") from None
        except BaseException:
            await child.end()
            raise
        if isinstance(said, Ready):
            return child
        await child._how_it_ended()
        raise ConfigurationError(f"a process cannot import the handler:\n{said.trace}")

    async def run(self, job: ActiveJob) -> EncodedResult:
        """Run a job. Raises what the handler raises, and `ProcessDied`; cancelling kills."""
        begun = False
        try:
            write(self._writer, Run(job.queue, job.id, job.snapshot.fields, job.token))
            while not isinstance(message := await self._next(), Completed | Failed):
                begun = True
                if isinstance(message, Request):
                    await self._reply(job, message)
        except asyncio.CancelledError:
            self._kill()
            raise
        except (EOFError, OSError):
            how = await self._how_it_ended()
            if not begun:
                raise _NotBegun from None
            raise ProcessDied(f"the process that ran it {how}") from None
        self.jobs += 1
        self.rss = message.rss
        if isinstance(message, Failed):
            raise _raised(message)
        return EncodedResult(message.result)

    async def _next(self) -> Any:
        while True:
            message = await read(self._reader)
            if not isinstance(message, Logged):
                return message
            record = logging.makeLogRecord(message.record)
            logger = logging.getLogger(record.name)
            if logger.isEnabledFor(record.levelno):
                logger.handle(record)

    async def _reply(self, job: ActiveJob, request: Request) -> None:
        try:
            value: object = await job.ask_host(request.name, *request.arguments)
            write(self._writer, Reply(request.number, value))
        except Exception as error:  # noqa: BLE001 - it is raised where the handler asked
            try:
                write(self._writer, Reply(request.number, error=error))
            except Exception:  # noqa: BLE001 - an error that cannot be pickled
                text = f"{type(error).__name__}: {error}"
                write(self._writer, Reply(request.number, error=RuntimeError(text)))
        await self._writer.drain()

    def _kill(self) -> None:
        self._killed = True
        self._writer.close()
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, signal.SIGKILL)  # with whatever the handler has started

    async def end(self) -> None:
        """See that it ends: by itself if it is free, or else killed."""
        try:
            if self.alive:
                write(self._writer, End())
                async with asyncio.timeout(_TO_END):
                    await self._process.wait()
        except (TimeoutError, OSError):
            pass
        finally:
            if self._process.returncode is None:
                self._kill()
            self._writer.close()
        await self._process.wait()

    async def _how_it_ended(self) -> str:
        self._kill()  # its line is dead; so is what it has started
        code = await self._process.wait()
        if code >= 0:
            return f"ended with exit code {code}"
        with contextlib.suppress(ValueError):
            return f"was ended by {signal.Signals(-code).name}"
        return f"was ended by signal {-code}"


def _raised(failed: Failed) -> BaseException:
    """The error that the handler raised, with its trace in words."""
    error: BaseException | None = None
    if failed.error is not None:
        with contextlib.suppress(Exception):
            error = pickle.loads(failed.error)  # noqa: S301 - our own process wrote it
    if error is None:
        error = ErrorInProcess(failed.text, failed.kind)
    error.__cause__ = TraceText(failed.trace)
    return error
