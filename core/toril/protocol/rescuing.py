"""Parents of which somebody has decided that they must fail, and whom no worker takes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import msgspec

from toril.connection.call import Call, Resend
from toril.protocol.effects import REMOVED, Effects, Wants, with_effects
from toril.protocol.finishing import DONE, GARBLED, NOT_ACTIVE, NOT_FOUND, Finish, events_of, packed
from toril.protocol.record import CallRecord, pack_record, refuse_late, resend_for
from toril.protocol.replies import hash_fields, text

__all__ = ["DONE", "GARBLED", "NOT_ACTIVE", "NOT_FOUND", "Deferred", "Place", "deferred", "rescue"]

MOST_DEFERRED: Final = 100
"""Parents looked at in one call."""
_LOCK_MS: Final = 30_000
"""For a lock that is gone when its script ends."""


@dataclass(frozen=True, slots=True)
class Place:
    """How far the failed children of a queue have been looked at: a score, and how many have it."""

    after: str = "-inf"
    skip: int = 0


@dataclass(frozen=True, slots=True)
class Deferred:
    """What one look found: the parents by their keys, with their fields.

    `place` is where to go on, `more` whether there is more at once.
    """

    parents: Mapping[str, Mapping[bytes, bytes]]
    place: Place
    more: bool


def deferred(
    queue: str, *, now: int, before: int, place: Place, till: int | None = None
) -> Call[Deferred]:
    """Look for parents that somebody decided to fail, and whom no worker has taken.

    Args:
        queue: The queue's key; theirs, or that of their children.
        now: Milliseconds since the epoch.
        before: Only those about whom it was decided by then, in milliseconds since the epoch.
        place: Where to go on in the failed children, of which up to 500 are looked at.
        till: Only children that failed by then, in milliseconds since the epoch; None: all.
    """
    request = {
        "now": now,
        "before": before,
        "limit": MOST_DEFERRED,
        "after": place.after,
        "skip": place.skip,
        "till": "+inf" if till is None else str(till),
    }

    def parse(reply: Any) -> Deferred:
        parents, (after, skip), more = reply
        found = {text(key): hash_fields(fields) for key, fields in parents}
        return Deferred(found, Place(text(after), skip), bool(more))

    return Call("deferred", (queue,), (msgspec.msgpack.encode(request),), parse, Resend.ALWAYS)


def rescue(
    queue: str,
    finish: Finish,
    *,
    finder: str,
    now: int,
    record: CallRecord | None = None,
    wants: Wants = frozenset(),
) -> Call[Effects[int]]:
    """Fail a job that waits and must fail, as a worker that takes it does.

    Args:
        queue: The job's queue, by its key.
        finish: Its end. The job is as a worker would have got it, with the reason it must fail for.
        finder: The key of the queue in whose list it was found.
        now: Milliseconds since the epoch.
        record: Makes the call safe to send again.
        wants: The event hooks that somebody implements.

    The result: `DONE`; `NOT_FOUND`: there is nothing to do any more; `NOT_ACTIVE`: its queue is
    paused, or it does not wait now, so it stays in the list; `GARBLED`: it cannot be done.
    """
    request: dict[str, Any] = {
        "now": now,
        "item": packed(finish),
        "lock": _LOCK_MS,
        "defa": finish.job.deferred_failure,
        "want_removed": REMOVED in wants,
    }
    if record is not None:
        request["record"] = pack_record(record)

    def parse(reply: Any) -> Effects[int]:
        refuse_late(reply)
        code, told = reply
        return with_effects(code, told, events_of((finish,), (code,), now, wants), wants)

    return Call(
        "rescue",
        (queue, finder),
        (msgspec.msgpack.encode(request),),
        parse,
        resend_for(record),
        (finish.job.id,),
    )
