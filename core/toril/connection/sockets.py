"""Single connections, as redis-py makes them, without its retries, pools and reply callbacks.

A connection speaks RESP2, so that a reply looks the same from every server, and leaves texts as
bytes. redis-py does the handshake (login, database, encryption, name).
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any, Protocol, cast

import redis
import redis.asyncio
from redis.backoff import NoBackoff
from redis.exceptions import RedisError, ResponseError
from redis.retry import Retry

from toril.connection.endpoint import Server
from toril.connection.faults import ANSWERS
from toril.connection.steps import Command, NotSent
from toril.connection.wire import OpenConnection, Wire, pack


class Connection(Protocol):
    """The part of redis-py's synchronous connection that is used."""

    def connect(self) -> None:
        """Open it, if it is not, with the handshake."""

    def disconnect(self) -> None:
        """Close it."""

    def can_read(self) -> bool:
        """Whether something is unread. Raises if the other side has closed it."""
        ...

    def send_packed_command(self, command: list[bytes], *, check_health: bool) -> None:
        """Write what `pack` made."""

    def read_response(self) -> Any:
        """The next reply; an error that the server said is raised."""


def open_connection(
    server: Server, client_name: str | None = None, reply_timeout: float | None = None
) -> Connection:
    """A new synchronous connection. `reply_timeout` in seconds; None: as the server's URL says.

    Raises:
        NotSent: it was not to be had.
    """
    options = _options(server, client_name)
    options["socket_timeout"] = reply_timeout or server.access.reply_timeout
    kind: Any = redis.Connection
    if server.address.path:
        kind = redis.UnixDomainSocketConnection
    elif server.access.tls is not None:
        kind = redis.SSLConnection
    connection = cast(Connection, kind(**options))
    try:
        connection.connect()
    except (RedisError, OSError) as error:
        raise NotSent(str(error), server) from error
    return connection


async def open_async_connection(server: Server, client_name: str | None = None) -> Wire:
    """A new asynchronous connection. Its user limits the time of a reply.

    Raises:
        NotSent: it was not to be had.
    """
    options = _options(server, client_name)
    options["socket_timeout"] = None
    kind: Any = redis.asyncio.Connection
    if server.address.path:
        kind = redis.asyncio.UnixDomainSocketConnection
    elif server.access.tls is not None:
        kind = redis.asyncio.SSLConnection
    connection = cast(OpenConnection, kind(**options))
    seconds = server.access.connect_timeout
    try:
        async with asyncio.timeout(seconds):
            await connection.connect()
        return Wire(connection)
    except TimeoutError as error:
        await connection.disconnect(nowait=True)
        raise NotSent(f"no connection to {server} within {seconds:g} s", server) from error
    except (RedisError, OSError) as error:
        await connection.disconnect(nowait=True)
        raise NotSent(str(error), server) from error
    except BaseException:
        await connection.disconnect(nowait=True)
        raise


def _options(server: Server, client_name: str | None) -> dict[str, Any]:
    access = server.access
    options: dict[str, Any] = {
        "db": access.db,
        "socket_connect_timeout": access.connect_timeout,
        "retry": Retry(NoBackoff(), 0),
        "protocol": 2,
        "client_name": client_name,
        "decode_responses": False,
    }
    if access.credentials is not None:
        options["credential_provider"] = access.credentials
    else:
        options |= {"username": access.username, "password": access.password}
    if server.address.path:
        return options | {"path": server.address.path}
    options |= {"host": server.address.host, "port": server.address.port, "socket_keepalive": True}
    return options | dict(access.tls or ())


def exchange(connection: Connection, commands: Sequence[Command]) -> list[Any]:
    """Send `commands` and read as many replies; errors of the server are returned as replies.

    Raises:
        RedisError: the connection broke or the time ran out.
    """
    connection.send_packed_command([pack(commands)], check_health=False)
    replies: list[Any] = []
    for _ in commands:
        try:
            replies.append(connection.read_response())
        except ANSWERS as error:
            replies.append(error)
            if not isinstance(error, ResponseError):  # redis-py has closed the connection
                return replies + [error] * (len(commands) - len(replies))
    return replies


def is_fresh(connection: Connection) -> bool:
    """Whether an idle connection is still open and has nothing unread."""
    try:
        return not connection.can_read()
    except RedisError:
        return False
