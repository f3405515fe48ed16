"""The tick of a worker: ending attempts and picking up jobs, in one call."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Final, Literal

import msgspec

from toril.connection.call import Call
from toril.job_events import JobAttemptFailed, JobCompleted, JobEvent
from toril.protocol.codec import LARGEST
from toril.protocol.effects import COMPLETED, FAILED, REMOVED, Effects, Wants, with_effects
from toril.protocol.keys import queue_name
from toril.protocol.record import (
    PRODUCER_TTL_MS,
    CallRecord,
    pack_record,
    refuse_late,
    resend_for,
)
from toril.protocol.replies import hash_fields, text
from toril.snapshots import FinishedJob, JobSnapshot
from toril.types import FinishCause, Json

MOST_FINISHES: Final = 100
MOST_FETCHED: Final = 100

FinishKind = Literal["completed", "failed", "retry", "delay", "wait"]
"""How an attempt ends: with a result; for good; another one at once, or after a delay; or given
back, as if it had not been picked up."""

DONE: Final = 0
RELATED_GARBLED: Final = 1
"""Done, but its parent could not be told, or its deduplication window not be closed: their keys are
garbled."""
NOT_FOUND: Final = -1
NO_LOCK: Final = -2
NOT_ACTIVE: Final = -3
OPEN_CHILDREN: Final = -4
"""Not completed: children are open. The job is still active and this worker's."""
OTHER_LOCK: Final = -6
FAILED_CHILDREN: Final = -9
"""Not completed: children have failed. The job is still active and this worker's."""
GARBLED: Final = -23
"""Its keys, or its queue's, are garbled. The job is still active and locked."""


# Structs of msgspec here: one is made for each job, in a tenth of the time of a dataclass.
class Finish(msgspec.Struct, frozen=True):
    """The end of one attempt of a running job.

    `value` is the result as JSON text (`completed`) or the reason as plain text (else; '' with
    `delay` and `wait`: none).
    """

    job: JobSnapshot
    token: str
    kind: FinishKind
    value: str = ""
    stacktrace: str | None = None
    """The traces of all failed attempts as JSON, if there is a new one."""
    delay_ms: int = 0
    lifo: bool = False
    """With `retry`: before all other waiting jobs."""
    skip_attempt: bool = False
    """With `delay`: it does not count as an attempt."""
    hold_ms: int = 0
    """With `wait`: no worker shall begin a job for so long, where a rate is limited."""
    from_head: bool = False
    """Look for it in the active list from the newest end; a matter of speed only."""
    cause: FinishCause = "processor"
    plans: Mapping[str, Json] | None = None
    """What each plugin planned for this job, for its Lua."""
    undecided: bool = False
    """A plugin broke while it planned."""


class Fetch(msgspec.Struct, frozen=True):
    """A wish for jobs. All of them get `token` as their lock; it is new with every call."""

    token: str
    lock_ms: int
    limit: int
    worker_name: str | None = None
    rate_max: int | None = None
    """The worker's own rate limit; one stored with the queue goes before it."""
    rate_duration_ms: int | None = None


class TickReply(msgspec.Struct, frozen=True):
    """What a tick did. `codes` stand for the finishes, in their order."""

    codes: tuple[int, ...]
    jobs: tuple[JobSnapshot, ...]
    dropped: tuple[str, ...]
    """Ids that waited although their job does not exist."""
    next_due_ms: int | None
    """When the earliest delayed job is due, in ms since the epoch; None: none, or not asked."""
    limited_ms: int | None
    """The rate limit lets nothing through for so many ms."""
    blocked: bool
    """The queue is paused, or has as many active jobs as it may."""
    more: bool
    """There was more to take."""
    at: int
    """The time at which it was carried out, by the caller's clock, in ms since the epoch."""


def tick(
    queue: str,
    *,
    now: int,
    offset: float | None = None,
    finishes: Sequence[Finish] = (),
    fetch: Fetch | None = None,
    metrics_minutes: int | None = None,
    record: CallRecord | None = None,
    wants: Wants = frozenset(),
) -> Call[Effects[TickReply]]:
    """End attempts and pick up jobs.

    Args:
        queue: The queue's key.
        now: Milliseconds since the epoch; it becomes the finishing time.
        offset: For a fetch that is sent before its time: by how many milliseconds the caller's
            clock is ahead of the server's, who then says what `now` is.
        finishes: At most 100, in the order in which they ended, no job twice.
        fetch: What to pick up; None: nothing.
        metrics_minutes: Count the jobs that end, per minute, and keep so many minutes; None: count
            nothing.
        record: Makes the call safe to send again.
        wants: The event hooks that somebody implements.

    Raises:
        ValueError: Too many finishes, or a job twice.
    """
    if len(finishes) > MOST_FINISHES:
        raise ValueError(f"at most {MOST_FINISHES} jobs can be finished in one call")
    ids: list[str] = []
    items: list[tuple[Any, ...]] = []
    for finish in finishes:
        ids.append(finish.job.id)
        items.append(packed(finish))
    if len(set(ids)) < len(ids):
        raise ValueError("a job cannot be finished twice in one call")
    wanted = fetch if fetch is not None and fetch.limit > 0 else None
    request = (
        now,
        pack_record(record, _record_ttl(wanted, offset)) or False,
        items,
        _fetch(wanted) if wanted is not None else False,
        REMOVED in wants,
        metrics_minutes or False,
        *(() if offset is None else (offset,)),
    )
    name = queue_name(queue)

    def parse(reply: Any) -> Effects[TickReply]:
        refuse_late(reply)
        codes, due, limited, blocked, more, dropped, told, jobs, *at = reply
        carried_out = at[0] if at else now
        value = TickReply(
            tuple(codes or ()),
            _picked_up(name, jobs, carried_out, fetch) if jobs and fetch is not None else (),
            tuple(map(text, dropped or ())),
            due if due >= 0 else None,
            limited if limited > 0 else None,
            bool(blocked),
            bool(more),
            carried_out,
        )
        return with_effects(value, told, events_of(finishes, value.codes, now, wants), wants)

    return Call(
        "tick",
        (queue,),
        (msgspec.msgpack.encode(request),),
        parse,
        resend_for(record),
        tuple(ids),
    )


def _record_ttl(wanted: Fetch | None, offset: float | None) -> int:
    """How long the call's record is kept, in milliseconds."""
    if wanted is None or offset is not None:  # which may come long after it was sent
        return PRODUCER_TTL_MS
    return max(2 * wanted.lock_ms, 1)


def _picked_up(queue: str, reply: Sequence[Any], now: int, fetch: Fetch) -> tuple[JobSnapshot, ...]:
    """The jobs as they are now: as the reply has them, and with what the pickup wrote to them."""
    written = {b"processedOn": b"%d" % now}
    if fetch.worker_name is not None:
        written[b"pb"] = fetch.worker_name.encode()
    jobs: list[JobSnapshot] = []
    for id, found in zip(reply[::2], reply[1::2], strict=True):
        fields = hash_fields(found)
        fields.update(written)
        started = fields.get(b"ats")
        fields[b"ats"] = b"1" if started is None else b"%d" % (_counted(started) + 1)
        jobs.append(JobSnapshot(queue, text(id), fields))
    return tuple(jobs)


def packed(finish: Finish) -> tuple[Any, ...]:
    """The finish as scripts get it."""
    more: dict[str, Any] = {}
    if finish.kind != "completed":
        if finish.stacktrace is not None:
            more["stack"] = finish.stacktrace
        if finish.kind == "failed":
            more["attempts"] = finish.job.attempts
        elif finish.kind == "delay":
            more["delay"] = max(finish.delay_ms, 0)
            more["skip"] = finish.skip_attempt
        elif finish.kind == "retry":
            more["lifo"] = finish.lifo
        elif finish.hold_ms:
            more["hold"] = finish.hold_ms
    if finish.cause != "processor":
        more["cause"] = finish.cause
    if finish.plans:
        more["plans"] = finish.plans
    if finish.undecided:
        more["undecided"] = True
    told = finish.value if finish.kind in {"completed", "failed"} else finish.value or False
    return (finish.job.id, finish.token, finish.kind, told, finish.from_head, more or False)


def _fetch(fetch: Fetch) -> tuple[Any, ...]:
    limited = fetch.rate_max is not None and fetch.rate_duration_ms is not None
    return (
        fetch.token,
        fetch.lock_ms,
        min(fetch.limit, MOST_FETCHED),
        False if fetch.worker_name is None else fetch.worker_name,
        limited and fetch.rate_max,
        limited and fetch.rate_duration_ms,
    )


def events_of(
    finishes: Sequence[Finish], codes: Sequence[int], now: int, wants: Wants
) -> tuple[JobEvent, ...]:
    """What the finishes that were carried out mean for the hooks."""
    if COMPLETED not in wants and FAILED not in wants:
        return ()
    events: list[JobEvent] = []
    for finish, code in zip(finishes, codes, strict=True):
        if code < 0:
            continue
        if finish.kind == "completed":
            if COMPLETED in wants:
                events.append(JobCompleted(finished_job(finish, now)))
        elif FAILED in wants and finish.kind != "wait" and not finish.skip_attempt:
            events.append(_failed(finish, now))
    return tuple(events)


def finished_job(finish: Finish, now: int) -> FinishedJob:
    """The job as it is once a `completed` or `failed` finish has been carried out at `now`."""
    job = finish.job
    fields = {**job.fields, b"atm": b"%d" % (_counted(job.fields.get(b"atm")) + 1)}
    fields[b"finishedOn"] = b"%d" % now
    if finish.stacktrace is not None:
        fields[b"stacktrace"] = finish.stacktrace.encode()
    if finish.kind == "completed":
        fields[b"returnvalue"] = finish.value.encode()
        return FinishedJob(job.queue, job.id, fields, "completed", finish.cause)
    fields[b"failedReason"] = finish.value.encode()
    fields.pop(b"defa", None)
    return FinishedJob(job.queue, job.id, fields, "failed", finish.cause)


def _failed(finish: Finish, now: int) -> JobAttemptFailed:
    final = finish.kind == "failed"
    if final:
        job: JobSnapshot = finished_job(finish, now)
    else:
        changed = {
            b"atm": b"%d" % (_counted(finish.job.fields.get(b"atm")) + 1),
            b"failedReason": finish.value.encode(),
        }
        if finish.stacktrace is not None:
            changed[b"stacktrace"] = finish.stacktrace.encode()
        job = finish.job.with_fields(changed)
    retry_in = None if final else finish.delay_ms if finish.kind == "delay" else 0
    return JobAttemptFailed(job, finish.value, final, finish.cause, retry_in)


def _counted(stored: bytes | None) -> int:
    """How many attempts a field tells; as for scripts, what is garbled counts as 0."""
    if stored is None:
        return 0
    try:
        number = float(stored)
        return math.floor(number) if abs(number) < LARGEST else 0
    except ValueError:
        return 0
