"""Looking at jobs for an audit, and repairing what it found."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import msgspec

from toril.connection.call import Call, Read, Resend
from toril.protocol.invariants import OpenChild, OtherKey, StoredJob
from toril.protocol.replies import text

MOST_LOOKS: Final = 10
"""Jobs looked at in one call."""
MOST_IDS: Final = 250
"""Ids of a state looked up in one call."""
MOST_KEYS: Final = 50
"""Other keys looked at in one call."""
CHILDREN: Final = 20
"""Open children of one parent that are looked at."""


def looks(queue: str, ids: Sequence[str], *, lists: bool) -> Call[list[StoredJob]]:
    """Jobs as they are stored at one moment, whether or not there is anything of them.

    Args:
        queue: The queue's key.
        ids: At most 100.
        lists: Look through the lists, too, which takes time that grows with them.
    """
    request = {"ids": list(ids), "lists": lists, "children": CHILDREN}

    def parse(reply: Sequence[Any]) -> list[StoredJob]:
        return [_job(queue, id, look) for id, look in zip(ids, reply, strict=True)]

    return Call("audit", (queue,), (msgspec.msgpack.encode(request),), parse, Resend.ALWAYS)


def _job(queue: str, id: str, look: Sequence[Any]) -> StoredJob:
    kind, fields, scores, lists, parts, lock_ttl, (open_children, children) = look
    return StoredJob(
        queue,
        id,
        text(kind),
        _pairs(fields),
        {name: float(score) for name, score in _pairs(scores).items()},
        {text(name): times for name, times in zip(lists[::2], lists[1::2], strict=True)},
        _pairs(parts),
        lock_ttl if lock_ttl != -2 else None,
        open_children,
        [_child(*child) for child in children],
    )


def _child(key: bytes, parent_key: bytes, exists: int, completed: int) -> OpenChild:
    return OpenChild(text(key), text(parent_key), exists=bool(exists), completed=bool(completed))


def _pairs(flat: Sequence[bytes]) -> dict[str, str]:
    return {text(name): text(value) for name, value in zip(flat[::2], flat[1::2], strict=True)}


def without_hash(queue: str, state: str, first: int) -> Call[tuple[int, list[str]]]:
    """The ids without a job in up to 1,000 places of a list or set, and how many ids stand there.

    Args:
        queue: The queue's key.
        state: The list or set, as its key calls it.
        first: The first of the places, from 0.
    """
    request = {"state": state, "first": first, "last": first + MOST_IDS - 1}

    def parse(reply: Sequence[Any]) -> tuple[int, list[str]]:
        return reply[0], [text(id) for id in reply[1]]

    return Call("audit", (queue,), (msgspec.msgpack.encode(request),), parse, Resend.ALWAYS)


def listed(queue: str, state: str, first: int) -> Read[list[str]]:
    """The ids in up to 1,000 places of a list, from `first`."""
    key = f"{queue}:{state}"
    command = ("LRANGE", key, first, first + MOST_IDS - 1)
    return Read((command,), lambda replies: [text(id) for id in replies[0]])


def key_looks(queue: str, rests: Sequence[str]) -> Call[list[OtherKey]]:
    """Up to 200 keys that are no job's, by what follows the queue's key in them."""

    def parse(reply: Sequence[Any]) -> list[OtherKey]:
        return [
            OtherKey(rest, text(kind), ttl, names_job=bool(names))
            for rest, (kind, ttl, names) in zip(rests, reply, strict=True)
        ]

    arguments = (msgspec.msgpack.encode({"rests": list(rests)}),)
    return Call("audit", (queue,), arguments, parse, Resend.ALWAYS)


def members(queue: str, rest: str) -> Read[list[str]]:
    """What stands in one of the small sorted sets of a queue."""
    command = ("ZRANGE", f"{queue}:{rest}", 0, -1)
    return Read((command,), lambda replies: [text(member) for member in replies[0]])


def noted(queue: str) -> Read[dict[str, float]]:
    """The parents of which somebody decided that they must fail, by key, and when (ms)."""

    def parse(replies: list[Any]) -> dict[str, float]:
        found = replies[0]
        return {text(k): float(v) for k, v in zip(found[::2], found[1::2], strict=True)}

    command = ("ZRANGE", f"{queue}:toril:deferred", 0, -1, "WITHSCORES")
    return Read((command,), parse)


def missing(keys: Sequence[str]) -> Read[list[str]]:
    """Those of the keys that do not exist."""
    return Read(
        tuple(("EXISTS", key) for key in keys),
        lambda replies: [key for key, there in zip(keys, replies, strict=True) if not there],
    )


def repair(queue: str, kind: str, id: str, *, now: int, children: Sequence[str] = ()) -> Call[bool]:
    """Repair one thing that is wrong; False if it is not so any more, or nobody can.

    Args:
        queue: The queue's key.
        kind: What is wrong; see `toril.protocol.invariants`.
        id: The job's id, or what else the kind is about.
        now: Milliseconds since the epoch.
        children: Keys of the children that it is about.
    """
    request = {"kind": kind, "id": id, "now": now, "children": list(children)}
    # A repair looks first whether it is still needed, so that it can be done twice.
    return Call("repair", (queue,), (msgspec.msgpack.encode(request),), bool, Resend.ALWAYS)
