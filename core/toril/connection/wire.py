"""An asynchronous connection: commands out, as many replies back.

redis-py opens it and does the handshake (login, database, encryption, name); then its stream layers
are left aside, as they cost several times what packing and parsing do.
"""

from __future__ import annotations

import asyncio
import math
import select
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final, Protocol, cast

import hiredis
from redis.exceptions import ConnectionError as RedisConnectionError

from toril.alarm import Alarm
from toril.connection.steps import Command

_CLOSED: Final = "the server has closed the connection"
_MORE: Final = object()

# Its stub promises commands of one word only.
_pack_command = cast(Callable[[Command], bytes], cast(Any, hiredis).pack_command)


def pack(commands: Iterable[Command]) -> bytes:
    """The commands as they go over the wire."""
    return b"".join([_pack_command(command) for command in commands])


class OpenConnection(Protocol):
    """The part of redis-py's asynchronous connection that is used."""

    @property
    def is_connected(self) -> bool:
        """Whether it is open as far as this side knows."""
        ...

    async def connect(self) -> None:
        """Open it, if it is not, with the handshake."""

    async def disconnect(self, *, nowait: bool = ...) -> None:
        """Close it; `nowait`: without waiting until that is done."""


class Wire(asyncio.Protocol):
    """A connection of redis-py's that is open, and on which nothing is under way.

    One exchange at a time. It belongs to the loop on which it was opened.

    Raises:
        RedisError: it has been closed already.
    """

    def __init__(self, connection: OpenConnection) -> None:
        inner = cast(Any, connection)  # neither name is public, nor is there another way to them
        self._connection = connection
        self._transport: asyncio.Transport = inner._writer.transport  # noqa: SLF001
        if self._transport.is_closing():
            raise RedisConnectionError(_CLOSED)
        self._reader: Any = hiredis.Reader(
            replyError=inner._parser.parse_error,  # noqa: SLF001
            notEnoughData=_MORE,
        )
        self._former = self._transport.get_protocol()
        self._transport.set_protocol(self)
        self._replies: list[Any] = []
        self._wanted = 0
        self._done: asyncio.Future[None] | None = None
        self._due = math.inf  # when the exchange under way is given up, on the loop's clock
        self._alarm = Alarm(self._look_at_clock)
        self._lost: Exception | None = None
        self._unread = select.poll()
        self._unread.register(self._transport.get_extra_info("socket").fileno(), select.POLLIN)

    @property
    def is_connected(self) -> bool:
        """Whether it is open as far as this side knows."""
        return self._lost is None and self._connection.is_connected

    @property
    def is_fresh(self) -> bool:
        """Whether it is open and has nothing unread."""
        return (
            self.is_connected
            and not self._transport.is_closing()
            and not self._replies
            and not self._reader.has_data()
        )

    @property
    def has_news(self) -> bool:
        """Whether something came, or it was closed, and the loop has not looked there yet."""
        return not self._transport.is_closing() and bool(self._unread.poll(0))

    async def exchange(self, commands: Sequence[Command], timeout: float) -> list[Any]:
        """Send `commands` and read as many replies; errors of the server are among them.

        Who gives up, or is cancelled, has to disconnect it.

        Args:
            commands: What is said.
            timeout: Seconds until it is given up.

        Raises:
            RedisError: the connection broke.
            TimeoutError: the time ran out.
        """
        if self._lost is not None:
            raise self._lost
        loop = asyncio.get_running_loop()
        self._done, self._wanted = loop.create_future(), len(commands)
        self._transport.write(pack(commands))
        self._due = loop.time() + timeout
        self._alarm.set(self._due)
        try:
            await self._done
        finally:
            self._done = None
        replies, self._replies = self._replies, []
        return replies

    def hurry(self, timeout: float) -> None:
        """Give the exchange that is under way up after so many seconds, if it is not sooner."""
        self._due = min(self._due, asyncio.get_running_loop().time() + timeout)
        self._alarm.set(self._due)

    def _look_at_clock(self) -> float | None:
        """Give the exchange up whose time is over; else say when it will be."""
        if self._done is None or self._done.done():
            return None
        if asyncio.get_running_loop().time() < self._due:
            return self._due
        self._done.set_exception(TimeoutError())
        return None

    async def disconnect(self, *, nowait: bool = False) -> None:
        """Close it; `nowait`: without waiting until that is done."""
        self._alarm.stop()
        await self._connection.disconnect(nowait=nowait)

    def data_received(self, data: bytes) -> None:
        """Something came; for the loop."""
        self._reader.feed(data)
        try:
            while (reply := self._reader.gets()) is not _MORE:
                self._replies.append(reply)
        except hiredis.ProtocolError as error:
            self._break(RedisConnectionError(f"not a reply: {error}"))
            self._transport.close()
            return
        if self._done is not None and len(self._replies) >= self._wanted and not self._done.done():
            self._done.set_result(None)

    def connection_lost(self, exc: Exception | None) -> None:
        """It is closed; for the loop."""
        self._alarm.stop()
        self._break(RedisConnectionError(str(exc) if exc else _CLOSED))
        self._former.connection_lost(exc)  # who waits for the end of closing waits there

    def _break(self, error: Exception) -> None:
        self._lost = self._lost or error
        if self._done is not None and not self._done.done():
            self._done.set_exception(self._lost)
