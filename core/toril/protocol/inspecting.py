"""What a queue has done, who works on it, and what its event stream holds."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import count
from typing import Any, Final

import msgspec

from toril.connection.call import Call, Procedure, Read, Resend
from toril.protocol.replies import text
from toril.types import Outcome

MINUTE_MS: Final = 60_000
BEAT_KEPT_MS: Final = 60_000
"""After so long without a sign of life a worker is forgotten."""
MOST_TOLD: Final = 100
"""Running jobs that a worker names in its sign of life."""


@dataclass(frozen=True, slots=True)
class MinuteMetrics:
    """How many jobs of a queue ended in each minute, as BullMQ keeps it.

    Only workers with the option `metrics` (BullMQ: `metrics.maxDataPoints`) count.
    """

    outcome: Outcome
    total: int
    """All that have been counted."""
    last: int | None
    """When the first job of the newest minute was counted, in ms since the epoch; None: never."""
    newest: int
    """Jobs counted since that minute began. They are not in `points` yet: a minute gets its number
    when a job ends in a later one."""
    points: tuple[int, ...]
    """Jobs per minute, the newest minute first: those asked for."""
    minutes: int
    """For how many minutes there is a number."""


def minute_metrics(queue: str, outcome: Outcome, first: int, last: int) -> Read[MinuteMetrics]:
    """Jobs that ended with `outcome`, per minute, newest first.

    `first`, `last`: the places wanted, inclusive; 0 is the newest minute, -1 the oldest.
    """
    key = f"{queue}:metrics:{outcome}"

    def parse(replies: list[Any]) -> MinuteMetrics:
        total, last_at, counted = (_whole(value) for value in replies[0])
        return MinuteMetrics(
            outcome=outcome,
            total=total or 0,
            last=last_at,
            newest=(total or 0) - (counted or 0),
            points=tuple(_whole(value) or 0 for value in replies[1]),
            minutes=replies[2],
        )

    data = f"{key}:data"
    return Read(
        (
            ("HMGET", key, "count", "prevTS", "prevCount"),
            ("LRANGE", data, first, last),
            ("LLEN", data),
        ),
        parse,
    )


def _whole(value: bytes | None) -> int | None:
    return int(value) if value is not None and value.removeprefix(b"-").isdigit() else None


@dataclass(frozen=True, slots=True)
class Client:
    """A connection of somebody to the server, as the server lists it; times in seconds."""

    id: int
    name: str
    address: str
    age: int
    idle: int
    command: str
    """The last one it gave."""


def clients() -> Procedure[tuple[Client, ...]]:
    """All connections that have a name, to every server of a cluster."""
    found: list[Client] = []
    for shard in count():
        listed: list[str] = yield Read(
            (("CLIENT", "LIST"),), lambda replies: list(map(text, replies)), shard
        )
        if not listed:
            break
        found += _clients(*listed)
    return tuple(found)


def _clients(listed: str) -> Iterator[Client]:
    for line in listed.splitlines():
        told = dict(re.findall(r"([\w-]+)=(\S*)", line))
        if told.get("name"):
            yield Client(
                id=int(told["id"]),
                name=told["name"],
                address=told.get("addr", ""),
                age=int(told.get("age", 0)),
                idle=int(told.get("idle", 0)),
                command=told.get("cmd", ""),
            )


class Beat(msgspec.Struct, frozen=True):
    """A worker's sign of life: what it said of itself at `at`. Times in ms since the epoch."""

    id: str
    name: str
    host: str
    pid: int
    started: int
    at: int
    concurrency: int
    running: tuple[str, ...]
    """Ids of jobs that it holds; at most 100 are named."""
    client: int
    """The id of the connection on which it waits; 0: it has none."""


def beat(queue: str, told: Beat) -> Call[None]:
    """Give a sign of life."""
    return _beat(queue, told.id, told.at, msgspec.json.encode(told).decode())


def end_of_beats(queue: str, id: str, now: int) -> Call[None]:
    """Say that the worker has ended."""
    return _beat(queue, id, now, None)


def _beat(queue: str, id: str, now: int, told: str | None) -> Call[None]:
    request: dict[str, Any] = {"who": id, "now": now, "keep": BEAT_KEPT_MS}
    if told is not None:
        request["told"] = told
    return Call("beat", (queue,), (msgspec.msgpack.encode(request),), lambda _: None, Resend.ALWAYS)


def beats(queue: str, now: int) -> Procedure[tuple[Beat, ...]]:
    """The newest sign of life of each worker that gave one in the last minute."""
    index = f"{queue}:toril:workers"
    command = ("ZRANGEBYSCORE", index, now - BEAT_KEPT_MS, "+inf")
    ids: list[str] = yield Read((command,), lambda replies: list(map(text, replies[0])))
    if not ids:
        return ()
    read = ("MGET", *(f"{index}:{id}" for id in ids))
    told: list[bytes | None] = yield Read((read,), lambda replies: list(replies[0]))
    return tuple(msgspec.json.decode(one, type=Beat) for one in told if one is not None)


def trim_events(queue: str, most: int) -> Read[int]:
    """Keep the newest `most` events of the stream. The result: how many went."""
    return Read((("XTRIM", f"{queue}:events", "MAXLEN", most),), lambda replies: int(replies[0]))


def keep_events(queue: str, most: int) -> Read[None]:
    """Let the stream hold about `most` events from now on."""
    command = ("HSET", f"{queue}:meta", "opts.maxLenEvents", most)
    return Read((command,), lambda _: None)


def publish(queue: str, kind: str, fields: Mapping[str, str], most: int | None) -> Call[str]:
    """Add an event of somebody's own; `most`: cut the stream to about so many."""
    limit = msgspec.msgpack.encode({} if most is None else {"limit": most})
    told = (kind, *(word for pair in fields.items() for word in pair))
    return Call("publish", (queue,), (limit, *told), text)
