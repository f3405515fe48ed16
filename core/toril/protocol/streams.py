"""The event stream of a queue, `Q:events`: what it says, and how to read it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, cast

from toril.connection.call import Argument, Read
from toril.protocol.replies import json_or_text, text
from toril.types import Json


@dataclass(frozen=True, slots=True)
class QueueEvent:
    """One entry of a queue's event stream.

    `kind` is BullMQ's name of the event (`added`, `completed`, …) or the name somebody gave an
    event of their own; `id` the entry's id in the stream, ordered by time; `job_id` the job it is
    about, if any. `fields` holds the rest, decoded: results, reasons, counts.
    """

    kind: str
    id: str
    job_id: str | None
    fields: Mapping[str, Json]

    @property
    def timestamp(self) -> int:
        """When it was written, by the server's clock, in milliseconds since the epoch."""
        return int(self.id.partition("-")[0])


def last_event_id(queue: str) -> Read[str]:
    """The id of the newest event of `queue` (`bull:mail`); `0-0` if there is none.

    What `$` means, but as a fixed point: nothing written after this read is missed.
    """

    def parse(replies: list[Any]) -> str:
        entries = _entries(replies[0])
        return entries[0].id if entries else "0-0"

    command = ("XREVRANGE", _stream(queue), "+", "-", "COUNT", 1)
    return Read((command,), parse)


def events_after(queue: str, after: str, limit: int) -> Read[tuple[QueueEvent, ...]]:
    """Up to `limit` events of `queue` newer than the entry `after` (`0-0`: from the start)."""
    command = ("XRANGE", _stream(queue), f"({after}", "+", "COUNT", limit)
    return Read((command,), lambda replies: _entries(replies[0]))


def wait_for_events(
    queues: Mapping[str, str], block_ms: int, limit: int
) -> tuple[tuple[Argument, ...], Callable[[Any], Mapping[str, tuple[QueueEvent, ...]]]]:
    """The command that waits for events, and the function that reads its reply.

    Args:
        queues: Queue key (`bull:mail`) → the id of the last entry seen.
        block_ms: How long the server may wait; the read needs a connection of its own.
        limit: At most that many events per queue.

    The reply is read as queue key → events; queues without news are left out.
    """
    streams = {_stream(queue): queue for queue in queues}
    options: tuple[Argument, ...] = ("COUNT", limit, "BLOCK", block_ms)
    command = ("XREAD", *options, "STREAMS", *streams, *queues.values())

    def parse(reply: Any) -> Mapping[str, tuple[QueueEvent, ...]]:
        if not reply:
            return {}
        found = cast("Mapping[bytes, Any]", reply if isinstance(reply, dict) else dict(reply))
        return {streams[text(name)]: _entries(entries) for name, entries in found.items()}

    return command, parse


def _stream(queue: str) -> str:
    return f"{queue}:events"


def _entries(reply: Any) -> tuple[QueueEvent, ...]:
    # An entry deleted while it was read comes without fields.
    return tuple(_event(text(entry), fields) for entry, fields in reply if fields is not None)


def _event(id: str, flat: Sequence[bytes]) -> QueueEvent:
    fields = {text(name): value for name, value in zip(flat[::2], flat[1::2], strict=True)}
    kind = text(fields.pop("event", b""))
    job_id = fields.pop("jobId", None)
    decode = _DECODERS.get(kind, {})
    return QueueEvent(
        kind,
        id,
        None if job_id is None else text(job_id),
        {name: decode.get(name, text)(value) for name, value in fields.items()},
    )


_DECODERS: Final[Mapping[str, Mapping[str, Callable[[bytes], Json]]]] = {
    "completed": {"returnvalue": json_or_text},
    "progress": {"data": json_or_text},
    "delayed": {"delay": json_or_text},
    "cleaned": {"count": json_or_text},
    "retries-exhausted": {"attemptsMade": json_or_text},
}
"""Fields that hold more than text, per kind. `failedReason` is text, even when it looks like JSON;
so is everything in an event of somebody's own."""
