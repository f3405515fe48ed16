"""Waiting for the server: what all waits have in common, and reading a stream as it grows.

Each wait has a connection of its own, a time limit that the server keeps, and one a little longer
that the client keeps, for the case that the connection is dead and nobody says so. A wait is ended
early by `CLIENT UNBLOCK` and its reply is looked at, never by dropping the connection: what the
server had already taken from the queue would be lost with it.

A wait raises nothing that passes by itself. It pauses a moment and returns None, as if its time
had run out, and the next one connects anew.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import time
from base64 import b64encode
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from redis.exceptions import RedisError

from toril.connection.conversation import pause_before
from toril.connection.endpoint import Server
from toril.connection.execute import Executor, SyncExecutor
from toril.connection.faults import ANSWERS, Reaction, fault_of, hopeless, typed_error
from toril.connection.sockets import (
    Connection,
    exchange,
    open_async_connection,
    open_connection,
)
from toril.connection.steps import Command, Exchange, Forget, NotSent, Refused, ReplyLost, Steps
from toril.connection.wire import Tell, Wire
from toril.errors import ConfigurationError

MARGIN = 2.0
"""Seconds that the client waits longer than it asked the server to."""

T = TypeVar("T")

_log = logging.getLogger("toril.connection")


def worker_client_name(prefix: str, queue: str, worker: str | None = None) -> str:
    """The name that BullMQ's dashboards look for on the connection of a worker that waits."""
    name = f"{prefix}:{b64encode(queue.encode()).decode()}"
    return f"{name}:w:{worker}" if worker else name


class _Trouble(Exception):
    """A wait that came to nothing; `server` is the one to forget."""

    def __init__(self, reason: str, server: Server | None) -> None:
        super().__init__(reason)
        self.server = server


def _trouble(error: Exception, server: Server | None, where: str) -> Exception:
    """What to make of an error in a wait: `_Trouble` if it passes, else what the caller gets."""
    cause = error.error if isinstance(error, Refused) else error
    if isinstance(error, NotSent) and (hint := hopeless(error.__cause__)):
        return ConfigurationError(f"{where}: {error} ({hint})")
    if isinstance(cause, ANSWERS):
        if fault_of(cause).reaction is Reaction.RAISE:
            return typed_error(cause, where)
        return _Trouble(str(cause), server)
    return _Trouble(str(cause) or type(cause).__name__, server)


class Blocking:
    """One connection that commands may block on, one at a time."""

    def __init__(self, executor: Executor, key: str, client_name: str | None) -> None:
        self._executor = executor
        self._key = key
        self._client_name = client_name
        self._pid = os.getpid()
        self._connection: Wire | None = None
        self._server: Server | None = None
        self._client_id = 0
        self.connected: Callable[[], None] | None = None
        """Called whenever there is a new connection."""
        self._waits = 0
        self._wait: int | None = None
        """The number of the wait under way."""
        self._woken = asyncio.Event()
        self._failures = 0

    async def open(self) -> None:
        """Connect before the first wait, so that others see who will wait.

        That it cannot be done now is no error: the wait tries again.
        """
        with contextlib.suppress(NotSent, ReplyLost, Refused, RedisError, OSError, TimeoutError):
            await self._connect()

    @property
    def client_id(self) -> int:
        """By which the server knows the connection; 0 while there is none."""
        return self._client_id if self._connection is not None else 0

    async def ask(
        self,
        commands: Callable[[], tuple[Command, ...]],
        block: float,
        tell: Tell | None = None,
    ) -> Any:
        """The replies to `commands`, of which the first may block for so many seconds.

        None: woken before they were sent, or trouble (after a pause).
        """
        try:
            if self._woken.is_set():
                return None
            try:
                replies = await self._replies(commands, block, tell)
            except _Trouble as trouble:
                await self._recover(trouble)
                return None
            self._failures = 0
            return replies
        finally:
            self._woken.clear()

    async def _replies(
        self, commands: Callable[[], tuple[Command, ...]], block: float, tell: Tell | None
    ) -> Any:
        where = str(self._executor.endpoint)
        try:
            connection = self._connection
            if connection is None or self._pid != os.getpid():
                connection = await self._unless_woken(self._connect())
            if connection is None:
                return None
            await self.before(connection)
            if self._woken.is_set():
                return None
            self._waits += 1
            self._wait = self._waits
            try:
                replies = await connection.exchange(commands(), block + MARGIN, tell)
            except BaseException:
                await self._drop()
                raise
            finally:
                self._wait = None
        except TimeoutError:
            raise _Trouble(f"no reply within {block + MARGIN:g} s", self._server) from None
        except (NotSent, ReplyLost, Refused, RedisError, OSError) as error:
            raise _trouble(error, self._server, where) from error
        if isinstance(replies[0], RedisError):
            await self._drop()
            raise _trouble(replies[0], self._server, where) from replies[0]
        return replies

    async def before(self, connection: Wire) -> None:
        """What is to be known before a wait begins."""

    async def _unless_woken(self, work: Coroutine[Any, Any, T]) -> T | None:
        task = asyncio.create_task(work)
        woken = asyncio.create_task(self._woken.wait())
        try:
            await asyncio.wait({task, woken}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            woken.cancel()
            if not task.done():
                task.cancel()
                await asyncio.wait({task})
        return None if task.cancelled() else task.result()

    async def _connect(self) -> Wire:
        self._pid = os.getpid()
        self._server = await self._executor.drive(self._executor.route.locate(self._key))
        connection = await open_async_connection(self._server, self._client_name)
        try:
            (client_id,) = await connection.exchange(
                (("CLIENT", "ID"),), self._server.access.connect_timeout
            )
        except BaseException:
            await connection.disconnect(nowait=True)
            raise
        self._client_id = client_id if isinstance(client_id, int) else 0
        self._connection = connection
        if self.connected is not None:
            self.connected()
        return connection

    async def _drop(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            await connection.disconnect(nowait=True)

    async def _recover(self, trouble: _Trouble) -> None:
        self._failures += 1
        level = logging.WARNING if self._failures == 1 else logging.DEBUG
        _log.log(level, "%s: waiting was interrupted: %s", self._executor.endpoint, trouble)
        await self._drop()
        await self._executor.drive(_leave(self._executor, trouble.server))
        try:
            async with asyncio.timeout(pause_before(self._failures)):
                await self._woken.wait()
        except TimeoutError:
            pass

    async def wake(self) -> None:
        """End the wait under way, or the next one if there is none, and return at once.

        The wait then returns what the server had for it, or None.
        """
        self._woken.set()
        wait = self._wait
        if wait is None or self._connection is None:
            return
        # A connection that is dead without saying so must not hold up who wants to stop.
        self._connection.hurry(MARGIN / 2)
        while self._wait == wait and self._server is not None and self._client_id:
            command = ("CLIENT", "UNBLOCK", self._client_id)
            try:
                (reply,) = await self._executor.drive(_send(self._server, command))
            except (NotSent, ReplyLost):
                return  # the wait finds that out by itself
            if isinstance(reply, RedisError):
                _log.warning("%s: a wait cannot be ended early: %s", self._executor.endpoint, reply)
                return
            if reply:
                return
            await asyncio.sleep(0.002)  # the server has not read the command yet

    async def aclose(self) -> None:
        """Close the connection. A wait under way is to be ended with `wake` first."""
        connection, self._connection = self._connection, None
        if connection is not None and self._pid == os.getpid():
            await connection.disconnect()


class StreamRead(Blocking):
    """Waits for entries of streams. `key` is one of them; in a cluster all are in its slot."""

    def __init__(self, executor: Executor, key: str, *, client_name: str | None = None) -> None:
        super().__init__(executor, key, client_name)

    async def read(self, command: Command, block: float) -> Any:
        """The reply to an XREAD that blocks for `block` seconds, or None: none came.

        Raises:
            ConfigurationError, ServerError: the server refuses, and will go on refusing.
        """
        replies = await self.ask(lambda: (command,), block)
        return None if replies is None else replies[0]


class SyncStreamRead:
    """Waits for entries of streams in the calling thread; one thread at a time."""

    def __init__(self, executor: SyncExecutor, key: str, *, client_name: str | None = None) -> None:
        self._executor = executor
        self._key = key
        self._client_name = client_name
        self._pid = os.getpid()
        self._connection: Connection | None = None
        self._server: Server | None = None
        self._limit = 0.0
        self._failures = 0

    def read(self, command: Command, block: float) -> Any:
        """The reply to an XREAD that blocks for `block` seconds, or None.

        Raises:
            ConfigurationError, ServerError: the server refuses, and will go on refusing.
        """
        try:
            connection = self._connected(block + MARGIN)
            (reply,) = exchange(connection, (command,))
        except (NotSent, ReplyLost, Refused, RedisError, OSError) as error:
            return self._recover(error)
        if isinstance(reply, RedisError):
            return self._recover(reply)
        self._failures = 0
        return reply

    def _connected(self, limit: float) -> Connection:
        if self._connection is not None and self._pid == os.getpid() and limit <= self._limit:
            return self._connection
        self.close()
        self._pid = os.getpid()
        self._server = self._executor.drive(self._executor.route.locate(self._key))
        self._connection = open_connection(self._server, self._client_name, limit)
        self._limit = limit
        return self._connection

    def _recover(self, error: Exception) -> None:
        self.close()
        problem = _trouble(error, self._server, str(self._executor.endpoint))
        if not isinstance(problem, _Trouble):
            raise problem from error
        self._failures += 1
        _log.debug("%s: waiting was interrupted: %s", self._executor.endpoint, problem)
        self._executor.drive(_leave(self._executor, problem.server))
        time.sleep(pause_before(self._failures))

    def close(self) -> None:
        """Close the connection."""
        connection, self._connection = self._connection, None
        if connection is not None and self._pid == os.getpid():
            connection.disconnect()


def _leave(executor: Executor | SyncExecutor, server: Server | None) -> Steps[None]:
    executor.route.forget()
    if server is not None:
        yield Forget(server)


def _send(server: Server, command: Command) -> Steps[list[Any]]:
    replies: list[Any] = yield Exchange(server, (command,))
    return replies
