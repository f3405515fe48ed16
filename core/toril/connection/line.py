"""Requests that the server gets one behind the other, without standing still between them."""

from __future__ import annotations

import asyncio

from toril.connection.endpoint import Server
from toril.connection.wire import Wire


class Place:
    """The place of one request in a line: what is before it, and where it is under way."""

    __slots__ = ("_done", "_sent", "before", "left", "server", "wire")

    def __init__(self, before: Place | None) -> None:
        self.before = before
        self.server: Server | None = None
        self.wire: Wire | None = None
        """The connection on which its reply is waited for."""
        self.left = False
        self._done: asyncio.Event | None = None
        self._sent = False

    def wire_before(self, server: Server) -> Wire | None:
        """The connection on which the request can go to `server` behind the one before it.

        Only the first time: one that is sent again waits until those before it are done, so that
        they cannot come after it.
        """
        before = self.before
        if self._sent or before is None or before.wire is None or before.server is not server:
            return None
        return before.wire if before.wire.is_connected else None

    async def turn(self, server: Server) -> Wire | None:
        """Wait until the request may be sent to `server`; the connection to be used, None: any."""
        while (before := self.before) is not None:
            wire = self.wire_before(server)
            if wire is not None:
                return wire
            await before.done()
            self.before = before.before
        return None

    def enter(self, server: Server, wire: Wire) -> None:
        """The request is being sent."""
        self._sent = True
        self.server, self.wire = server, wire

    async def done(self) -> None:
        """Wait until the request is done, whatever comes of it."""
        if not self.left:
            self._done = self._done or asyncio.Event()
            await self._done.wait()

    def leave(self) -> None:
        """The request is done."""
        self.left = True
        if self.before is not None and self.before.left:
            self.before = None
        if self._done is not None:
            self._done.set()


class Line:
    """A row of requests that are done in the order in which they joined it.

    One goes out while the one before it is still under way, on the same connection, which keeps the
    order. Each has its own outcome: what becomes of one is nothing to those behind it. Where a
    reply is lost those behind it are lost too, and sent again one after the other. Only a request
    that the server refused for the moment, as it did not know the script or a slot was moving, can
    be overtaken, by those that had been sent behind it already.
    """

    def __init__(self) -> None:
        self._last: Place | None = None

    def join(self) -> Place:
        """A place behind all others. It has to be left."""
        self._last = Place(self._last)
        return self._last

    def leave(self, place: Place) -> None:
        """The request at that place is done, whatever came of it."""
        place.leave()
        if self._last is place:
            self._last = place.before
