"""Carrying out requests: an asynchronous and a synchronous driver of the same conversation."""

from __future__ import annotations

import asyncio
import os
import threading
import time
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar, overload

from redis.exceptions import RedisError

from toril.connection.call import Call, Read, Request
from toril.connection.conversation import PRODUCER, Patience, command_of, converse
from toril.connection.endpoint import Endpoint, Server
from toril.connection.line import Line, Place
from toril.connection.pool import MAX_CONNECTIONS, WirePool
from toril.connection.route import Route, route_for
from toril.connection.scripts import ScriptSet
from toril.connection.sockets import (
    Connection,
    exchange,
    is_fresh,
    open_connection,
)
from toril.connection.steps import (
    Command,
    Exchange,
    Forget,
    InThread,
    NotSent,
    Pause,
    ReplyLost,
    Step,
    Steps,
)
from toril.connection.wire import Wire

T = TypeVar("T")

_inherited: list[object] = []
"""Connections that a forked child got from its parent. They are kept, never closed: closing one
would take it out of the poll set that the child still shares with the parent."""


class Executor:
    """Carries out requests on an asyncio loop.

    Opens connections when they are needed; after a fork, or on another loop, opens its own.

    Args:
        endpoint: The server.
        scripts: The scripts that calls name.
        patience: How long to go on trying when the server cannot be had.
        client_name: The name of the connections in the server's client list.
    """

    def __init__(
        self,
        endpoint: Endpoint,
        scripts: ScriptSet,
        *,
        patience: Patience = PRODUCER,
        client_name: str | None = None,
    ) -> None:
        self.endpoint = endpoint
        self.route: Route = route_for(endpoint)
        self._scripts = scripts
        self._patience = patience
        self._client_name = client_name
        self._owner: tuple[int, asyncio.AbstractEventLoop] | None = None
        self._pool = WirePool()

    @overload
    async def run(
        self,
        request: Call[T],
        patience: Patience | None = None,
        sending: Callable[[], None] | None = None,
        line: Line | None = None,
    ) -> T: ...
    @overload
    async def run(
        self,
        request: Read[T],
        patience: Patience | None = None,
        sending: Callable[[], None] | None = None,
        line: Line | None = None,
    ) -> T: ...
    async def run(
        self,
        request: Request,
        patience: Patience | None = None,
        sending: Callable[[], None] | None = None,
        line: Line | None = None,
    ) -> Any:
        """Carry out `request` and return its result.

        Args:
            request: What is asked.
            patience: How long to go on trying; None: as long as this executor does.
            sending: Called when it is about to be sent: from then on it may be done.
            line: The row that it joins.

        Raises:
            ServerUnavailable: the server could not be had in time, and nothing was done.
            IndeterminateError: a reply was lost, and the outcome is not known.
            ServerFull: the server's memory is full.
            ConfigurationError: login, rights or version do not do.
            ServerError: another refusal.
        """
        steps = self.converse(request, patience)
        if line is None:
            return await self.drive(steps, sending)
        place = line.join()
        try:
            return await self.drive(steps, sending, place)
        finally:
            line.leave(place)

    def converse(self, request: Request, patience: Patience | None = None) -> Steps[Any]:
        """The conversation in which `request` is carried out; see `run`."""
        return converse(self.route, self._scripts, request, patience or self._patience)

    def command(self, call: Call[Any]) -> Command:
        """The command that `call` is, for who sends it on a connection of his own."""
        return command_of(call, self._scripts)

    async def drive(
        self,
        steps: Steps[T],
        sending: Callable[[], None] | None = None,
        place: Place | None = None,
        doing: Awaitable[Any] | None = None,
    ) -> T:
        """Carry out the steps of a conversation and return its result.

        `doing`: carries out the step that has been asked for already.
        """
        try:
            if doing is None:
                doing = self.do(next(steps), sending, place)
            while True:
                try:
                    answer = await doing
                except (NotSent, ReplyLost) as problem:
                    step = steps.throw(problem)
                else:
                    step = steps.send(answer)
                doing = self.do(step, sending, place)
        except StopIteration as done:
            result: T = done.value
            return result
        finally:
            steps.close()

    async def do(
        self, step: Step, sending: Callable[[], None] | None = None, place: Place | None = None
    ) -> Any:
        """Carry out one step. Raises `NotSent` or `ReplyLost`."""
        match step:
            case Exchange(server, _):
                pool = self.pool()
                place = place if step.asked else None
                wire = None if place is None else await place.turn(server)
                if wire is None:
                    wire = await pool.take(server)
                if sending is not None:
                    sending()
                return await self._exchange(pool, wire, step, place)
            case Pause(seconds):
                await asyncio.sleep(seconds)
            case Forget(server):
                await self.pool().forget(server)
            case InThread(function):
                return await asyncio.to_thread(function)
        return None

    def pool(self) -> WirePool:
        """The connections of this process and loop."""
        owner = (os.getpid(), asyncio.get_running_loop())
        if owner != self._owner:
            if self._owner is not None:
                if self._owner[0] != owner[0]:
                    _inherited.append((self._pool, self._owner))
                self.route.forget()
            self._owner = owner
            self._pool = WirePool(self._client_name)
        return self._pool

    async def _exchange(
        self, pool: WirePool, wire: Wire, step: Exchange, place: Place | None
    ) -> list[Any]:
        if place is not None:
            place.enter(step.server, wire)
        whole = False
        try:
            replies = await wire.exchange(step.commands, step.server.access.reply_timeout)
            whole = True
        except (TimeoutError, RedisError, OSError) as error:
            raise ReplyLost.of(step.server, error) from error
        finally:
            if place is not None:
                place.wire = None
            pool.give_back(step.server, wire, usable=whole)
            if not whole:
                await wire.disconnect(nowait=True)
        return replies

    async def aclose(self) -> None:
        """Close the connections. The executor can be used again; it then opens new ones."""
        if self._owner == (os.getpid(), asyncio.get_running_loop()):
            await self._pool.aclose()
        await self.drive(self.route.close())


class SyncExecutor:
    """Carries out requests in the calling thread. Safe to use from several threads.

    The arguments are those of `Executor`.
    """

    def __init__(
        self,
        endpoint: Endpoint,
        scripts: ScriptSet,
        *,
        patience: Patience = PRODUCER,
        client_name: str | None = None,
    ) -> None:
        self.endpoint = endpoint
        self.route: Route = route_for(endpoint)
        self._scripts = scripts
        self._patience = patience
        self._client_name = client_name
        self._start()

    def _start(self) -> None:
        self._pid = os.getpid()
        self._lock = threading.Lock()
        self._idle: dict[Server, list[Connection]] = {}
        self._turns = threading.Semaphore(MAX_CONNECTIONS)

    @overload
    def run(self, request: Call[T], patience: Patience | None = None) -> T: ...
    @overload
    def run(self, request: Read[T], patience: Patience | None = None) -> T: ...
    def run(self, request: Request, patience: Patience | None = None) -> Any:
        """Carry out `request` and return its result. Raises what `Executor.run` raises."""
        return self.drive(converse(self.route, self._scripts, request, patience or self._patience))

    def drive(self, steps: Steps[T]) -> T:
        """Carry out the steps of a conversation and return its result."""
        try:
            step = next(steps)
            while True:
                try:
                    answer = self._do(step)
                except (NotSent, ReplyLost) as problem:
                    step = steps.throw(problem)
                else:
                    step = steps.send(answer)
        except StopIteration as done:
            result: T = done.value
            return result
        finally:
            steps.close()

    def _do(self, step: Step) -> Any:
        match step:
            case Exchange(server, _):
                if os.getpid() != self._pid:
                    _inherited.append(self._idle)
                    self.route.forget()
                    self._start()
                with self._turns:
                    return self._exchange(server, step)
            case Pause(seconds):
                time.sleep(seconds)
            case Forget(server):
                with self._lock:
                    connections = self._idle.pop(server, [])
                for connection in connections:
                    connection.disconnect()
            case InThread(function):
                return function()
        return None

    def _exchange(self, server: Server, step: Exchange) -> list[Any]:
        connection = self._connected(server)
        whole = False
        try:
            replies = exchange(connection, step.commands)
            whole = True
        except (RedisError, OSError) as error:
            raise ReplyLost(str(error), server) from error
        finally:
            if whole:
                with self._lock:
                    self._idle.setdefault(server, []).append(connection)
            else:
                connection.disconnect()
        return replies

    def _connected(self, server: Server) -> Connection:
        while True:
            with self._lock:
                idle = self._idle.get(server)
                connection = idle.pop() if idle else None
            if connection is None:
                break
            if is_fresh(connection):
                return connection
            connection.disconnect()
        return open_connection(server, self._client_name)

    def close(self) -> None:
        """Close the connections. The executor can be used again; it then opens new ones."""
        if self._pid == os.getpid():
            with self._lock:
                idle, self._idle = self._idle, {}
            for connections in idle.values():
                for connection in connections:
                    connection.disconnect()
        self.drive(self.route.close())
