"""What the conversation with a server consists of, without doing it.

The logic of the layer (finding the server, loading scripts, sending again) is written as
generators that yield these steps; an asynchronous and a synchronous driver carry them out.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from dataclasses import dataclass
from typing import Any, TypeAlias, TypeVar

import msgspec
from redis.exceptions import RedisError

from toril.connection.call import Argument
from toril.connection.endpoint import Server

T = TypeVar("T")

Command: TypeAlias = tuple[Argument, ...]


class Exchange(msgspec.Struct, frozen=True):
    """Send `commands` to `server` in one write and read the replies.

    Answered with the list of replies, in which an error of the server stands as a `RedisError`.
    Raises `NotSent` or `ReplyLost`.
    """

    server: Server
    commands: tuple[Command, ...]
    asked: bool = False
    """Whether this is the request itself, not something that has to be known before."""


@dataclass(frozen=True, slots=True)
class Pause:
    """Wait for some seconds."""

    seconds: float


@dataclass(frozen=True, slots=True)
class Forget:
    """Close the idle connections to `server`: it is gone, or no longer what it was."""

    server: Server


@dataclass(frozen=True, slots=True)
class InThread:
    """Run a function that blocks, where it holds up nobody. Answered with its result."""

    function: Callable[[], Any]


Step: TypeAlias = Exchange | Pause | Forget | InThread
Steps: TypeAlias = Generator[Step, Any, T]


class NotSent(Exception):
    """No connection was had, so nothing was sent. `server` is None if none was found."""

    def __init__(self, message: str, server: Server | None = None) -> None:
        super().__init__(message)
        self.server = server


class ReplyLost(Exception):
    """The connection broke, or the time ran out, after something may have been sent."""

    def __init__(self, message: str, server: Server) -> None:
        super().__init__(message)
        self.server = server

    @classmethod
    def of(cls, server: Server, error: Exception) -> ReplyLost:
        """What `error` means that a connection raised while replies were waited for."""
        if isinstance(error, TimeoutError):
            limit = server.access.reply_timeout
            return cls(f"no reply from {server} within {limit:g} s", server)
        return cls(str(error), server)


class Refused(Exception):
    """The server answered with an error and did nothing."""

    def __init__(self, error: RedisError, server: Server) -> None:
        super().__init__(str(error))
        self.error = error
        self.server = server
