"""A process of a worker's pool: imports the handler and runs jobs with it, one at a time.

The main thread runs the handler. Another one talks to the worker; when the worker has gone, it ends
this process at once, whatever the handler is doing.
"""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import itertools
import logging
import os
import pickle
import queue
import resource
import signal
import socket
import sys
import threading
import traceback
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import Future
from logging.handlers import QueueHandler
from pathlib import Path
from typing import Any, Final, cast

from toril.errors import RateLimited, RetryIn, Unrecoverable, WaitAgain, WaitForChildren
from toril.protocol.codec import encode_json
from toril.runtime import refuse_apps
from toril.snapshots import JobSnapshot
from toril.worker.active_job import ActiveJob, JobHost
from toril.worker.messages import (
    Begin,
    Begun,
    Completed,
    End,
    Failed,
    Logged,
    Ready,
    Reply,
    Request,
    Run,
    Unusable,
    read,
    write,
)

_NO_APP: Final = (
    "this process runs one handler for a worker's pool and has no App: what a handler needs of its "
    "job it finds in the job; add other jobs from what its worker does with the result"
)
_STATM: Final = Path("/proc/self/statm")
_DEATH_SIGNAL: Final = 1
"""Linux's `PR_SET_PDEATHSIG`."""


def main(descriptor: int, parent: int) -> None:
    """Serve the worker at the other end of the socket `descriptor`; `parent` is its process id."""
    for number in (signal.SIGINT, signal.SIGTERM):  # the worker decides when a job has to end
        signal.signal(number, signal.SIG_IGN)
    _die_with(parent)
    refuse_apps(_NO_APP)
    channel = Channel(socket.socket(fileno=descriptor))
    begin = channel.inbox.get()
    logging.getLogger().addHandler(_Forward(channel))
    logging.getLogger().setLevel(begin.log_level)
    try:
        handler: Callable[[ActiveJob], Any] = pickle.loads(begin.handler)  # noqa: S301
    except BaseException:  # noqa: BLE001 - a guard: the module is somebody else's
        channel.send(Unusable(traceback.format_exc()))
        channel.close()
        raise SystemExit(1) from None
    channel.send(Ready())
    with asyncio.Runner() as runner:
        for run in iter(channel.inbox.get, None):
            channel.send(_end_of(handler, _job(channel, run), runner))
    channel.close()


def _job(channel: Channel, run: Run) -> ActiveJob:
    snapshot = JobSnapshot(run.queue, run.id, run.fields)
    return ActiveJob(cast("JobHost", _Host(channel)), snapshot, run.token)


def _end_of(
    handler: Callable[[ActiveJob], Any], job: ActiveJob, runner: asyncio.Runner
) -> Completed | Failed:
    try:
        job.decode()
        result = handler(job)
        if inspect.isawaitable(result):
            result = runner.run(_awaited(result))
        return Completed("null" if result is None else encode_json(result, "the result"), _rss())
    except BaseException as error:  # noqa: BLE001 - a guard: whatever it is, its job has failed
        return Failed(
            _pickled(error), type(error).__qualname__, _text(error), _trace(error), _rss()
        )


async def _awaited(result: Any) -> Any:
    return await result


def _pickled(error: BaseException) -> bytes | None:
    """The error, if it survives pickling; of a signal at least what it says."""
    for candidate in (error, *_signal(error)):
        with contextlib.suppress(Exception):
            raw = pickle.dumps(candidate)
            if isinstance(pickle.loads(raw), BaseException):  # noqa: S301
                return raw
    return None


def _signal(error: BaseException) -> Sequence[BaseException]:
    match error:
        case Unrecoverable():
            return (Unrecoverable(_text(error)),)
        case RetryIn():
            return (RetryIn(error.delay),)
        case RateLimited():
            return (RateLimited(error.delay),)
        case WaitForChildren():
            return (WaitForChildren(),)
        case WaitAgain():
            return (WaitAgain(),)
        case _:
            return ()


def _text(error: BaseException) -> str:
    try:
        return str(error)
    except Exception:  # noqa: BLE001 - a guard: an error that cannot be written is one all the same
        return ""


def _trace(error: BaseException) -> str:
    frames = error.__traceback__.tb_next if error.__traceback__ else None  # without `_end_of`
    try:
        return "".join(traceback.format_exception(type(error), error, frames))
    except Exception:  # noqa: BLE001 - a guard: see above
        return "".join(traceback.format_tb(frames))


def _rss() -> int:
    """The memory of this process in bytes: what it has, or, if the system does not say, had."""
    if _STATM.exists():
        return int(_STATM.read_text().split()[1]) * resource.getpagesize()
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most if sys.platform == "darwin" else most * 1024


def _die_with(parent: int) -> None:
    """Let the system end this process with the worker, also while no Python code runs."""
    if sys.platform == "linux":
        import ctypes

        ctypes.CDLL(None).prctl(_DEATH_SIGNAL, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)


class Channel:
    """The line to the worker; a thread of its own reads it."""

    def __init__(self, line: socket.socket) -> None:
        self.inbox: queue.SimpleQueue[Any] = queue.SimpleQueue()
        """`Begin`, then `Run`s, then None."""
        self.loop = asyncio.new_event_loop()
        self._line = line
        self._closing = False
        self._numbers = itertools.count()
        self._open: dict[int, Future[Any]] = {}
        connected = threading.Event()
        self._thread = threading.Thread(
            target=self.loop.run_until_complete, args=(self._read(connected),), daemon=True
        )
        self._thread.start()
        connected.wait()

    def send(self, message: object) -> None:
        """Send a message, from any thread."""
        self.loop.call_soon_threadsafe(write, self._writer, message)

    def request(self, name: str, *arguments: Any) -> Future[Any]:
        """Ask the worker for something, from any thread."""
        number = next(self._numbers)
        answer: Future[Any] = Future()
        self._open[number] = answer
        pickle.dumps(arguments)  # raised here and not in the other thread
        self.send(Request(number, name, arguments))
        return answer

    def close(self) -> None:
        """Let what was sent go out; nobody minds then that the worker hangs up."""
        self._closing = True
        asyncio.run_coroutine_threadsafe(self._flush(), self.loop).result(5)

    async def _flush(self) -> None:
        self._writer.write_eof()
        await self._writer.drain()

    async def _read(self, connected: threading.Event) -> None:
        reader, self._writer = await asyncio.open_unix_connection(sock=self._line)
        connected.set()
        try:
            while True:
                match await read(reader):
                    case Reply(number, value, error):
                        answer = self._open.pop(number)
                        if error is None:
                            answer.set_result(value)
                        else:
                            answer.set_exception(error)
                    case End():
                        self.inbox.put(None)
                    case Begin() as message:
                        self.inbox.put(message)
                    case Run() as message:
                        # Here, not in the other thread: it has left before the handler, which may
                        # end the process at once, is called. A job is not to be begun twice.
                        write(self._writer, Begun())
                        self.inbox.put(message)
                    case _:
                        pass
        except (EOFError, OSError):
            if not self._closing:
                os.killpg(0, signal.SIGKILL)  # with whatever the handler has started


class _Forward(QueueHandler):
    """Sends log records to the worker."""

    def __init__(self, channel: Channel) -> None:
        super().__init__(queue.SimpleQueue())
        self._channel = channel

    def enqueue(self, record: logging.LogRecord) -> None:
        pickle.dumps(record.__dict__)  # what cannot be sent is this handler's error
        self._channel.send(Logged(record.__dict__))


class _Host:
    """What the job is given to work with: the worker's own `JobHost`, at the other end."""

    def __init__(self, channel: Channel) -> None:
        self._channel = channel
        self.loop = channel.loop

    @property
    def stopping(self) -> bool:
        return bool(self._channel.request("stopping").result())

    def __getattr__(self, name: str) -> Callable[..., Awaitable[Any]]:
        async def ask(_job: ActiveJob, *arguments: Any) -> Any:
            return await asyncio.wrap_future(self._channel.request(name, *arguments))

        return ask
