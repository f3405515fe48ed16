"""The connections of one executor on one loop."""

from __future__ import annotations

import asyncio
from collections import deque

from toril.connection.endpoint import Server
from toril.connection.sockets import open_async_connection
from toril.connection.wire import Wire

MAX_CONNECTIONS = 16
"""Connections in use at once in one executor; who needs one more waits for its turn."""


class WirePool:
    """Connections that are free, by server, and turns to use one.

    Args:
        client_name: The name of the connections in the server's client list.
    """

    def __init__(self, client_name: str | None = None) -> None:
        self._client_name = client_name
        self._left = MAX_CONNECTIONS
        self._turns: deque[asyncio.Future[None]] = deque()
        self.idle: dict[Server, list[Wire]] = {}

    def take_at_once(self, server: Server) -> Wire | None:
        """A free connection; None if nothing can be said of any before the loop comes round."""
        idle = self.idle.get(server)
        if not idle or not self._left or not idle[-1].is_fresh or idle[-1].has_news:
            return None
        self._left -= 1
        return idle.pop()

    async def take(self, server: Server) -> Wire:
        """A connection that is free, or a new one. Raises `NotSent` if it is not to be had."""
        await self._turn()
        try:
            idle = self.idle.get(server)
            while idle:
                wire = idle.pop()
                fresh = False
                try:
                    if wire.has_news:
                        # Let the loop look at the socket: first it runs us, then what it saw there.
                        await asyncio.sleep(0)
                        await asyncio.sleep(0)
                    fresh = wire.is_fresh
                finally:
                    if not fresh:  # also when cancelled just now: nobody else has it any more
                        await wire.disconnect(nowait=True)
                if fresh:
                    return wire
            return await open_async_connection(server, self._client_name)
        except BaseException:
            self._release()
            raise

    async def _turn(self) -> None:
        """Wait for one's turn. A semaphore has none that can be had at once without a coroutine."""
        if self._left and not self._turns:
            self._left -= 1
            return
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._turns.append(turn)
        try:
            await turn
        except asyncio.CancelledError:
            if not turn.cancelled():
                self._release()  # it had just been given
            elif turn in self._turns:
                self._turns.remove(turn)
            raise

    def _release(self) -> None:
        while self._turns:
            turn = self._turns.popleft()
            if not turn.done():
                turn.set_result(None)
                return
        self._left += 1

    def give_back(self, server: Server, wire: Wire, *, usable: bool) -> None:
        """Who took the connection, or shared it in a line, has left it; the last one frees it.

        `usable`: all replies were read. One that is not has to be closed.
        """
        if wire.in_use:
            return
        if self._turns:
            self._release()
        else:
            self._left += 1
        if usable and wire.is_connected:
            self.idle.setdefault(server, []).append(wire)

    async def forget(self, server: Server) -> None:
        """Close the free connections to a server."""
        for wire in self.idle.pop(server, ()):
            await wire.disconnect(nowait=True)

    async def aclose(self) -> None:
        """Close the free connections."""
        idle, self.idle = self.idle, {}
        for wires in idle.values():
            for wire in wires:
                await wire.disconnect()
