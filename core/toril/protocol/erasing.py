"""Erasing a job: what is stored of it, and what names it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import msgspec

from toril.connection.call import Call, Procedure, Resend
from toril.errors import JobStateError
from toril.protocol.effects import REMOVED, Effects, Wants, with_effects
from toril.protocol.keys import can_be_job, queue_name
from toril.protocol.record import CallRecord, pack_record, refuse_late, resend_for
from toril.protocol.refusals import refusal
from toril.protocol.replies import text
from toril.protocol.streams import last_event_id
from toril.protocol.trees import kept_jobs
from toril.removals import rejection

_KEPT: Final = -24
_PARENT_OPEN: Final = -25


@dataclass(frozen=True, slots=True)
class Traces:
    """What there was of a job on the server.

    `job`: it existed; `in_parent`: entries in its parent's keys; `events`: entries of the stream.
    """

    job: bool = False
    in_parent: int = 0
    events: int = 0


def erase(
    queue: str,
    id: str,
    *,
    parent_key: str | None = None,
    now: int,
    record: CallRecord | None = None,
    wants: Wants = frozenset(),
) -> Procedure[Traces]:
    """Erase a job and what names it: in its parent's keys, and in the queue's event stream.

    The job and its parent's keys are one step, the stream is gone through in slices of 250. Doing
    it again does what is left to do.

    Args:
        queue: The queue's key.
        id: The job's id.
        parent_key: The key of its parent, if the job is gone and somebody remembers it.
        now: Milliseconds since the epoch.
        record: Tells what there was also after a lost reply.
        wants: The event hooks that somebody implements.

    Raises:
        JobLocked: A worker is running it.
        JobStateError: It is the iteration that a schedule waits for; or its parent has not ended.
        Reject: A plugin keeps it.
    """
    if not can_be_job(id):
        return Traces()
    existed, in_parent = yield _erase_job(queue, id, parent_key, now, record, wants)
    last: str = yield last_event_id(queue)
    events, after = 0, "0-0"
    while after:
        deleted, after = yield _erase_events(queue, id, after, last)
        events += deleted
    return Traces(existed, in_parent, events)


def _erase_job(  # noqa: PLR0917 - what `erase` is told
    queue: str,
    id: str,
    parent_key: str | None,
    now: int,
    record: CallRecord | None,
    wants: Wants,
) -> Call[Effects[tuple[bool, int]]]:
    request: dict[str, Any] = {
        "phase": "job",
        "id": id,
        "now": now,
        "want_removed": REMOVED in wants,
    }
    if parent_key is not None:
        request["parent_key"] = parent_key
    if record is not None:
        request["record"] = pack_record(record)

    def parse(reply: Any) -> Effects[tuple[bool, int]]:
        refuse_late(reply)
        code, in_parent, kept, told = reply
        name = queue_name(queue)
        if code == _KEPT:
            raise rejection(f"job {id!r} of queue {name!r}", kept_jobs(kept))
        if code == _PARENT_OPEN:
            raise JobStateError(
                f"job {id!r} of queue {name!r} has a parent that has not ended and needs what it "
                "left; let the parent end, or remove it, before",
                queue=name,
                job_id=id,
            )
        if code < 0:
            raise refusal(code, queue, id)
        return with_effects((code == 1, in_parent), told)

    arguments = (msgspec.msgpack.encode(request),)
    return Call("erase", (queue,), arguments, parse, resend_for(record), (id,))


def _erase_events(queue: str, id: str, after: str, last: str) -> Call[tuple[int, str]]:
    request = {"phase": "events", "id": id, "after": after, "last": last}
    return Call(
        "erase",
        (queue,),
        (msgspec.msgpack.encode(request),),
        lambda reply: (reply[0], text(reply[1])),
        Resend.ALWAYS,
    )
