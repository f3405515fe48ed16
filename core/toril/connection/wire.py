"""An asynchronous connection: commands out, as many replies back.

redis-py opens it and does the handshake (login, database, encryption, name); then its stream layers
are left aside, as they cost several times what packing and parsing do.
"""

from __future__ import annotations

import asyncio
import select
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final, Protocol, TypeAlias, cast

import hiredis
import msgspec
from redis.exceptions import ConnectionError as RedisConnectionError

from toril.alarm import Alarm
from toril.connection.steps import Command

_CLOSED: Final = "the server has closed the connection"
_MORE: Final = object()

# Its stub promises commands of one word only.
_pack_command = cast(Callable[[Command], bytes], cast(Any, hiredis).pack_command)


def pack(commands: Iterable[Command]) -> bytes:
    """The commands as they go over the wire."""
    return b"".join(map(_pack_command, commands))


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


Tell: TypeAlias = Callable[[list[Any]], None]


class Waiter(Protocol):
    """Who waits for replies: a future, or what is led on within the step that reads them."""

    def done(self) -> bool:
        """Whether it waits no more."""
        ...

    def set_result(self, replies: list[Any], /) -> None:
        """All replies have come; errors of the server are among them."""

    def set_exception(self, error: Exception, /) -> None:
        """The connection broke, or the time ran out."""


class _Teller:
    """A future that tells somebody of the replies before it wakes who awaits it."""

    __slots__ = ("_future", "_tell", "done", "set_exception")

    def __init__(self, future: asyncio.Future[list[Any]], tell: Tell) -> None:
        self._future = future
        self._tell = tell
        self.done = future.done
        self.set_exception = future.set_exception

    def set_result(self, replies: list[Any], /) -> None:
        try:
            self._tell(replies)
        except Exception as error:  # noqa: BLE001 - for who awaits the replies
            self._future.set_exception(error)
        else:
            self._future.set_result(replies)


class _Exchange(msgspec.Struct):
    """Commands that have been sent: how many replies they get, those that came, and until when."""

    wanted: int
    due: float
    waiter: Waiter
    replies: list[Any] = []


class Wire(asyncio.Protocol):
    """A connection of redis-py's that is open, and on which nothing is under way.

    An exchange can be begun while others are under way: the server answers them in their order.
    It belongs to the loop on which it was opened.

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
        self._under_way: deque[_Exchange] = deque()
        self._users = 0
        self._unasked = False  # whether something came for which nobody waits
        self._alarm = Alarm(self._look_at_clock)
        self._now = asyncio.get_running_loop().time
        self._lost: Exception | None = None
        self.is_connected = True
        """Whether it is open as far as this side knows."""
        self._unread = select.poll()
        self._unread.register(self._transport.get_extra_info("socket").fileno(), select.POLLIN)

    @property
    def is_fresh(self) -> bool:
        """Whether it is open and has nothing unread, as far as the loop has looked."""
        return (
            self.is_connected
            and not self._unasked
            and not self._transport.is_closing()
            and not self._reader.has_data()
        )

    @property
    def in_use(self) -> bool:
        """Whether somebody is in an exchange."""
        return self._users > 0

    @property
    def has_news(self) -> bool:
        """Whether something came, or it was closed, and the loop has not looked there yet."""
        return bool(self._unread.poll(0)) and not self._transport.is_closing()

    async def exchange(
        self, commands: Sequence[Command], timeout: float, tell: Tell | None = None
    ) -> list[Any]:
        """Send `commands` and read as many replies; errors of the server are among them.

        They are sent before this waits for the first time. Who gives up, or is cancelled, has to
        disconnect it, which breaks the other exchanges that are under way.

        Args:
            commands: What is said.
            timeout: Seconds until it is given up.
            tell: Called with the replies in the step of the loop that reads them, before this
                returns.

        Raises:
            RedisError: the connection broke.
            TimeoutError: the time ran out.
            Exception: what `tell` raised.
        """
        done: asyncio.Future[list[Any]] = asyncio.get_running_loop().create_future()
        try:
            self.begin(commands, timeout, done if tell is None else _Teller(done, tell))
            return await done
        finally:
            self.leave()

    def begin(self, commands: Sequence[Command], timeout: float, waiter: Waiter) -> None:
        """Send `commands`; the replies are for `waiter`. In any case it has to `leave` afterwards.

        Raises:
            RedisError: the connection is broken.
        """
        self._users += 1
        if self._lost is not None:
            raise self._lost
        mine = _Exchange(len(commands), self._now() + timeout, waiter)
        self._transport.write(pack(commands))
        self._under_way.append(mine)
        self._alarm.set(mine.due)

    def leave(self) -> None:
        """Who has begun an exchange waits no more."""
        self._users -= 1

    def hurry(self, timeout: float) -> None:
        """Give what is under way up after so many seconds, if it is not sooner."""
        due = self._now() + timeout
        for exchange in self._under_way:
            exchange.due = min(exchange.due, due)
        self._alarm.set(due)

    def _look_at_clock(self) -> float | None:
        """Give the exchanges up whose time is over; say when that of the next one will be."""
        now = self._now()
        following: float | None = None
        for exchange in self._under_way:
            if exchange.waiter.done():
                continue
            if now >= exchange.due:
                exchange.waiter.set_exception(TimeoutError())
            elif following is None or exchange.due < following:
                following = exchange.due
        return following

    async def disconnect(self, *, nowait: bool = False) -> None:
        """Close it; `nowait`: without waiting until that is done."""
        self.is_connected = False
        self._alarm.stop()
        await self._connection.disconnect(nowait=nowait)

    def data_received(self, data: bytes) -> None:
        """Something came; for the loop."""
        self._reader.feed(data)
        try:
            while (reply := self._reader.gets()) is not _MORE:
                self._take(reply)
        except hiredis.ProtocolError as error:
            self._break(RedisConnectionError(f"not a reply: {error}"))
            self._transport.close()

    def _take(self, reply: Any) -> None:
        if not self._under_way:
            self._unasked = True
            return
        exchange = self._under_way[0]
        exchange.replies.append(reply)
        if len(exchange.replies) == exchange.wanted:
            self._under_way.popleft()
            if not exchange.waiter.done():
                exchange.waiter.set_result(exchange.replies)

    def connection_lost(self, exc: Exception | None) -> None:
        """It is closed; for the loop."""
        self._alarm.stop()
        self._break(RedisConnectionError(str(exc) if exc else _CLOSED))
        self._former.connection_lost(exc)  # who waits for the end of closing waits there

    def _break(self, error: Exception) -> None:
        self.is_connected = False
        self._lost = self._lost or error
        for exchange in self._under_way:
            if not exchange.waiter.done():
                exchange.waiter.set_exception(self._lost)
