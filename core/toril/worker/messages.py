"""What a worker and the processes of its pool say to each other.

Pickled, as both ends are the same program; nothing of it is ever stored.
"""

from __future__ import annotations

import asyncio
import pickle
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

_LENGTH: Final = struct.Struct("!Q")


@dataclass(frozen=True, slots=True)
class Begin:
    """To a new process: this handler, pickled, is what you run."""

    handler: bytes
    log_level: int


@dataclass(frozen=True, slots=True)
class Ready:
    """The handler has been imported."""


@dataclass(frozen=True, slots=True)
class Unusable:
    """The handler cannot be imported; the trace says why."""

    trace: str


@dataclass(frozen=True, slots=True)
class Run:
    """Run a job."""

    queue: str
    id: str
    fields: Mapping[bytes, bytes]
    token: str


@dataclass(frozen=True, slots=True)
class Begun:
    """The handler is about to be called: from now on the job may have had effects."""


@dataclass(frozen=True, slots=True)
class Request:
    """The handler wants something of its job that only the worker can do."""

    number: int
    name: str
    arguments: tuple[Any, ...]


@dataclass(frozen=True, slots=True)
class Reply:
    """What came of it."""

    number: int
    value: Any = None
    error: BaseException | None = None


@dataclass(frozen=True, slots=True)
class Logged:
    """A log record, for the worker's log."""

    record: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Completed:
    """The handler returned; the result as JSON text. `rss`: the process's memory, in bytes."""

    result: str
    rss: int


@dataclass(frozen=True, slots=True)
class Failed:
    """The handler raised. `error` is pickled; None if that cannot be done."""

    error: bytes | None
    kind: str
    text: str
    trace: str
    rss: int


@dataclass(frozen=True, slots=True)
class End:
    """To a process: no more jobs will come."""


def write(writer: asyncio.StreamWriter, message: object) -> None:
    """Write a message. Raises what pickling it raises; then nothing was written."""
    raw = pickle.dumps(message)
    writer.write(_LENGTH.pack(len(raw)) + raw)


async def read(reader: asyncio.StreamReader) -> Any:
    """The next message. Raises `EOFError` or `OSError` if the other end has gone."""
    (length,) = _LENGTH.unpack(await reader.readexactly(_LENGTH.size))
    return pickle.loads(await reader.readexactly(length))  # noqa: S301 - our own process wrote it
