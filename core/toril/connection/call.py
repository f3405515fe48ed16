"""What an operation asks of the server, described without doing it.

An operation is a `Call` (one script, atomic), a `Read` (plain commands without effects), or a
`Procedure`: a generator that yields calls, reads and series and gets their results back. The same
descriptions are run by the asynchronous and by the synchronous executor.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable
from dataclasses import dataclass
from enum import Enum
from typing import Any, Generic, TypeAlias, TypeVar

import msgspec

T = TypeVar("T")

Argument: TypeAlias = bytes | str | int | float


class Resend(Enum):
    """What may be done when the connection broke before the reply came."""

    NEVER = "never"
    """It may have happened; doing it twice does harm. The outcome is indeterminate."""
    ALWAYS = "always"
    """Doing it twice is the same as doing it once."""
    RECORDED = "recorded"
    """The script keeps a call record, so that a second sending returns the first one's reply."""


class Call(msgspec.Struct, Generic[T], frozen=True):
    """One script call. A struct, as that is made in a third of a dataclass's time.

    `script` is a name in the catalogue; `keys[0]` is the queue's own key prefix and decides the
    slot in a cluster. `parse` turns the raw reply (bytes, integers, lists) into the result and
    raises the typed error that an error code stands for. `job_ids` are named in an
    `IndeterminateError`.
    """

    script: str
    keys: tuple[str, ...]
    args: tuple[Argument, ...]
    parse: Callable[[Any], T]
    resend: Resend = Resend.NEVER
    job_ids: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Read(Generic[T]):
    """Plain commands without effects, sent in one pipeline; `parse` gets the list of replies.

    All keys of one read are in one slot. `shard`: it names no key, and of the servers that hold
    keys the one of that number is asked, from 0; `parse` gets no replies if there are fewer.
    """

    commands: tuple[tuple[Argument, ...], ...]
    parse: Callable[[list[Any]], T]
    shard: int | None = None


@dataclass(frozen=True, slots=True)
class Series(Generic[T]):
    """Procedures that are carried out one after another, and answered with their results.

    Each is made, and sends what it sends first, while the one before it waits for the server: that
    one's part in Python and the server's work go on at the same time. The server gets their calls
    in their order. When one raises no other is made; its error is raised when the one that is
    under way beside it has ended, whatever that did.
    """

    procedures: Iterable[Procedure[T]]


Request: TypeAlias = Call[Any] | Read[Any]
Procedure: TypeAlias = Generator[Request | Series[Any], Any, T]
"""A conversation of several calls; `return` gives its result."""


def only(request: Call[Any] | Read[Any]) -> Procedure[Any]:
    """The procedure of a single call or read."""
    return (yield request)
