"""The events of a queue as they happen, in whatever library they happen."""

from __future__ import annotations

import asyncio
from collections import deque
from typing import TYPE_CHECKING, Final, Self

from toril.connection.blocking import StreamRead, worker_client_name
from toril.connection.call import only
from toril.protocol import streams
from toril.protocol.streams import QueueEvent

if TYPE_CHECKING:
    from toril.app import App

_BLOCK: Final = 5.0
"""Seconds for which one read waits."""
_PER_READ: Final = 200


class QueueEvents:
    """An asynchronous iterator over the events of one queue, made by `app.events(queue)`.

        async with app.events("mail") as events:
            async for event in events:
                print(event.kind, event.job_id)

    It has a connection of its own, and connects anew when that breaks; nothing is missed meanwhile
    unless the stream has been trimmed (it holds about 10,000 events). `after` is where it stands:
    the id of the last event it gave; pass it to `app.events` to go on there. The iteration ends
    with `aclose`.
    """

    def __init__(
        self, app: App, queue: str, prefix: str | None = None, *, after: str | None = None
    ) -> None:
        self._app = app
        self._prefix = app.context.prefix if prefix is None else prefix
        self._key = app.context.key(queue, prefix)
        self.queue = queue
        self.after = after
        self._read_to = after
        self._pending: deque[QueueEvent] = deque()
        self._reader: StreamRead | None = None
        self._reading = asyncio.Lock()
        self._closed = False

    async def start(self) -> None:
        """Take the position: from here on nothing is missed. Called by the first iteration.

        Raises `ServerError` if the server cannot be asked.
        """
        await self._app.runtime.start()
        if self._read_to is None:
            last = await self._app.perform(only(streams.last_event_id(self._key)))
            self.after = self._read_to = last

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *error: object) -> None:
        await self.aclose()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> QueueEvent:
        await self.start()
        while not self._pending:
            if self._closed:
                raise StopAsyncIteration
            async with self._reading:
                await self._read()
        event = self._pending.popleft()
        self.after = event.id
        return event

    async def _read(self) -> None:
        if self._reader is None:
            name = worker_client_name(self._prefix, self.queue) + ":qe"
            self._reader = StreamRead(
                self._app.runtime.executor, f"{self._key}:events", client_name=name
            )
        position = {self._key: self._read_to or "0-0"}
        command, parse = streams.wait_for_events(position, round(_BLOCK * 1000), _PER_READ)
        reply = await self._reader.read(command, _BLOCK)
        for event in parse(reply).get(self._key, ()):
            self._pending.append(event)
            self._read_to = event.id

    async def aclose(self) -> None:
        """End the iteration and close the connection."""
        self._closed = True
        if self._reader is not None:
            await self._reader.wake()
            async with self._reading:
                await self._reader.aclose()
