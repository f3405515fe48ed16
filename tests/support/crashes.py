"""Crashes at every boundary of an operation: enumerated, not drawn.

The boundaries are those between a process and the server or, with a `FileHow`, those between it and
its files.

An operation talks to the server in exchanges: it sends, and it gets the replies. Between any two of
them the process may die, and each reply may be lost. `at_each_boundary` runs the operation in a
process of its own and lets that happen at the first exchange, then, from the same beginning, at the
second, and so on, until the operation passes without having got that far.

    for number in at_each_boundary(raw, operation, "killed before"):
        ...  # the process is dead: look, let another one finish the work, look again
"""

from __future__ import annotations

import asyncio
import os
import signal
import sqlite3
import sys
import traceback
import warnings
from collections.abc import Callable, Coroutine, Iterator
from typing import Any, Final, Literal, cast

import redis

from toril.connection.begun import Begun
from toril.connection.execute import Executor
from toril.connection.steps import ReplyLost
from toril.connection.wire import Waiter, Wire

How = Literal["killed before", "killed after", "reply lost"]
FileHow = Literal["killed before it writes", "killed in a write", "killed before a statement"]
HOWS: Final[tuple[How, ...]] = ("killed before", "killed after", "reply lost")
"""The process is killed before it has sent; after the server has carried it out, but before the
reply is read; or it lives on and gets no reply."""
FILE_HOWS: Final[tuple[FileHow, ...]] = (
    "killed before it writes",
    "killed in a write",
    "killed before a statement",
)
"""The process is killed before it writes to a file, cuts, syncs, renames or removes one; after it
has written half of what it was to write; before a statement of an SQLite database."""
_WRITES: Final = ("pwrite", "ftruncate", "fsync", "replace", "unlink")
MOST: Final = 500
"""Exchanges after which an operation is taken for endless."""
REACHED: Final = 77
"""Exit code of a process that lived on after the reply was lost."""


class Stored:
    """Everything in a database as it is now, to begin from there again."""

    def __init__(self, raw: redis.Redis) -> None:
        self._client = _bytes_client(raw)
        keys = cast("list[bytes]", list(self._client.scan_iter(count=1000)))
        self._values = {key: (self._client.dump(key), self._client.pttl(key)) for key in keys}

    def put_back(self) -> None:
        """Nothing else is in the database then."""
        pipe = self._client.pipeline(transaction=False)
        pipe.flushdb()
        for key, (value, left) in self._values.items():
            pipe.restore(key, max(0, left), cast(bytes, value))
        pipe.execute()


def _bytes_client(raw: redis.Redis) -> redis.Redis:
    named = dict(raw.connection_pool.connection_kwargs)
    return redis.Redis(host=named["host"], port=named["port"], db=named.get("db", 0))


def at_each_boundary(
    raw: redis.Redis, operation: Callable[[], Coroutine[Any, Any, object]], how: How | FileHow
) -> Iterator[int]:
    """Let the operation crash at its 1st, 2nd, 3rd … boundary, each time from what is stored now.

    Yields the number of the boundary, after the crash. The operation must succeed when it is not
    disturbed: the last time it is run to its end, and that is looked at.
    """
    beginning = Stored(raw)
    for number in range(1, MOST):
        beginning.put_back()
        reached = _run(operation, number, how)
        if not reached:
            assert number > 1, "the operation never came to such a boundary"
            return
        yield number
    raise AssertionError(f"the operation has not ended after {MOST} boundaries")


def _run(
    operation: Callable[[], Coroutine[Any, Any, object]], number: int, how: How | FileHow
) -> bool:
    """Run it in a process of its own; whether it got as far as the crash."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # other threads: none is used there
        child = os.fork()
    if child == 0:
        _in_child(operation, number, how)
    _, status = os.waitpid(child, 0)
    if os.WIFSIGNALED(status):
        assert os.WTERMSIG(status) == signal.SIGKILL, f"ended by signal {os.WTERMSIG(status)}"
        return True
    code = os.WEXITSTATUS(status)
    assert code in (0, REACHED), f"the operation failed: exit code {code}"
    return code == REACHED


def _in_child(
    operation: Callable[[], Coroutine[Any, Any, object]], number: int, how: How | FileHow
) -> None:  # never returns
    code = 1
    try:
        crash = _FileCrash(number, how) if how in FILE_HOWS else _Crash(number, how)
        crash.install()
        try:
            asyncio.run(cast("Coroutine[Any, Any, None]", operation()))
        except Exception:
            if not crash.happened:
                raise
        code = REACHED if crash.happened else 0
    except BaseException:  # noqa: BLE001 - nothing of the test may run twice
        traceback.print_exc()
        sys.stderr.flush()
    finally:
        os._exit(code)


class _Crash:
    """Counts the exchanges of all executors, and lets one of them go wrong."""

    def __init__(self, number: int, how: How | FileHow) -> None:
        self._left = number
        self._how = how
        self.happened = False

    def install(self) -> None:
        exchange, begin = Executor._exchange, Wire.begin
        crash = self

        async def disturbed(self: Executor, pool: Any, wire: Any, step: Any, place: Any) -> Any:
            mine = crash._is_next()
            replies = await exchange(self, pool, wire, step, place)
            if mine:
                crash._replied()
                raise ReplyLost("lost by the test", step.server)
            return replies

        def begun(self: Wire, commands: Any, timeout: float, waiter: Waiter) -> None:
            if isinstance(waiter, Begun) and crash._is_next():
                waiter = _Disturbed(waiter, crash)
            begin(self, commands, timeout, waiter)

        Executor._exchange = disturbed  # type: ignore[method-assign]
        Wire.begin = begun  # type: ignore[method-assign]

    def _is_next(self) -> bool:
        """Count an exchange that begins; others may be under way at the same time."""
        self._left -= 1
        if self._left == 0 and self._how == "killed before":
            os.kill(os.getpid(), signal.SIGKILL)
        return self._left == 0

    def _replied(self) -> None:
        if self._how == "killed after":
            os.kill(os.getpid(), signal.SIGKILL)
        self.happened = True


class _Disturbed:
    """Waits for replies in place of another, who gets none."""

    def __init__(self, waiter: Waiter, crash: _Crash) -> None:
        self._waiter = waiter
        self._crash = crash

    def done(self) -> bool:
        return self._waiter.done()

    def set_result(self, _replies: list[Any]) -> None:
        self._crash._replied()
        self._waiter.set_exception(ConnectionError("lost by the test"))

    def set_exception(self, error: Exception) -> None:
        self._waiter.set_exception(error)


class _FileCrash(_Crash):
    """Counts what all threads do to files, and kills the process in one of these."""

    def install(self) -> None:
        if self._how == "killed before a statement":
            self._trace_databases()
            return
        for name in ("pwrite",) if self._how == "killed in a write" else _WRITES:
            self._wrap(name)

    def _reached(self) -> bool:
        self._left -= 1
        return self._left == 0

    def _wrap(self, name: str) -> None:
        really: Callable[..., Any] = getattr(os, name)

        def disturbed(*args: Any, **named: Any) -> Any:
            if self._reached():
                if self._how == "killed in a write":
                    file, text, *at = args
                    really(file, text[: len(text) // 2], *at)
                os.kill(os.getpid(), signal.SIGKILL)
            return really(*args, **named)

        setattr(os, name, disturbed)

    def _trace_databases(self) -> None:
        connect = sqlite3.connect

        def traced(*args: Any, **named: Any) -> sqlite3.Connection:
            def tell(statement: str) -> None:
                if self._reached():
                    os.kill(os.getpid(), signal.SIGKILL)

            made: sqlite3.Connection = connect(*args, **named)
            made.set_trace_callback(tell)
            return made

        sqlite3.connect = traced  # type: ignore[assignment]
