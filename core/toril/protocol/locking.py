"""Locks of running jobs, and the jobs whose worker vanished."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import msgspec

from toril.connection.call import Call, Procedure, Resend
from toril.job_events import JobStalled
from toril.protocol.effects import STALLED, Effects, Wants, with_effects
from toril.protocol.keys import queue_name
from toril.protocol.record import CallRecord, pack_record, refuse_late, resend_for
from toril.protocol.refusals import refusal
from toril.protocol.replies import text
from toril.snapshots import JobRef

MOST_RENEWED: Final = 250
"""Locks renewed by one call."""
STALLED_SLICE: Final = 250
"""Ids looked at by one call of the stalled check."""


@dataclass(frozen=True, slots=True)
class StalledReport:
    """What a stalled check found.

    `ran` is False if somebody has checked less than an interval ago; `next_in_ms` tells when the
    next check is due.
    """

    ran: bool
    next_in_ms: int
    recovered: int = 0
    """Jobs put back."""
    failing: int = 0
    """Of these, jobs that the next worker will fail without running them."""
    dropped: tuple[str, ...] = ()
    """Ids that were active although their job does not exist."""


def renew(
    queue: str, jobs: Sequence[tuple[str, str] | tuple[str, str, int]], lock_ms: int
) -> Call[tuple[str, ...]]:
    """Renew the locks of at most 250 jobs, given as (id, token) or (id, token, ms).

    `ms`: how long this one lock lasts, instead of `lock_ms`.

    The result: the ids whose lock is gone or another's.

    Raises:
        ValueError: There are none or too many.
    """
    if not 0 < len(jobs) <= MOST_RENEWED:
        raise ValueError(f"between 1 and {MOST_RENEWED} locks can be renewed in one call")

    def parse(reply: Any) -> tuple[str, ...]:
        return tuple(map(text, reply))

    request = {"jobs": list(jobs), "lock": lock_ms}
    return _call("renew", queue, request, parse, Resend.ALWAYS)


def wait_children(
    queue: str,
    id: str,
    token: str,
    *,
    now: int,
    record: CallRecord | None = None,
    child_key: str | None = None,
) -> Call[Effects[bool]]:
    """Put a running job aside until its children are done.

    The result: True, or False if there is nothing to wait for; then the job is still active.

    Args:
        queue: The queue's key.
        id: The job's id.
        token: Its lock.
        now: Milliseconds since the epoch.
        record: Makes the call safe to send again.
        child_key: Wait for this child only; its key. None: for all.

    The result raises `JobNotFound`; `LockLost`; `JobStateError` if the job is not active, or if
    children have failed so that it can never be completed.
    """
    request: dict[str, Any] = {"now": now, "id": id, "token": token}
    if child_key is not None:
        request["child"] = child_key
    if record is not None:
        request["record"] = pack_record(record)

    def parse(reply: Any) -> Effects[bool]:
        refuse_late(reply)
        code, told = reply
        if code < 0:
            raise refusal(code, queue, id, "is not active")
        return with_effects(code == 0, told)

    return _call("wait_children", queue, request, parse, resend_for(record), (id,))


def stalled_check(
    queue: str,
    *,
    now: int,
    interval_ms: int,
    max_stalled: int,
    wants: Wants = frozenset(),
) -> Procedure[StalledReport]:
    """Put back jobs whose worker vanished, if nobody has looked within `interval_ms`.

    A job is taken for stalled if it was active at the last check and has no lock now. One that
    stalled more than `max_stalled` times is failed by the worker that takes it next. Works in
    slices of 250 jobs.
    """
    request: dict[str, Any] = {"now": now, "interval": interval_ms, "max_stalled": max_stalled}

    def phase(name: str, parse: Callable[[Any], Any], **more: Any) -> Call[Any]:
        told = {**request, "phase": name, **more}
        return _call("stalled", queue, told, parse, Resend.NEVER)

    def recovered(reply: Any) -> Effects[_Slice]:
        more, jobs, dropped = reply
        events = tuple(_stalled(queue, *job) for job in jobs)
        value = _Slice(
            bool(more),
            len(events),
            sum(event.fails_next for event in events),
            tuple(map(text, dropped)),
        )
        return Effects(value, events if STALLED in wants else ())

    left: int = yield phase("begin", _as_it_is)
    if left > 0:
        return StalledReport(ran=False, next_in_ms=left)
    slices: list[_Slice] = []
    while not slices or slices[-1].more:
        # Where some have vanished, there may be more of them among the oldest.
        oldest = not slices or slices[-1].recovered > 0
        slices.append((yield phase("recover", recovered, oldest=oldest)))
    start = 0
    while (yield phase("mark", _as_it_is, **{"from": start})):
        start += STALLED_SLICE
    return StalledReport(
        ran=True,
        next_in_ms=interval_ms,
        recovered=sum(part.recovered for part in slices),
        failing=sum(part.failing for part in slices),
        dropped=tuple(dropped for part in slices for dropped in part.dropped),
    )


@dataclass(frozen=True, slots=True)
class _Slice:
    """What one call of the check put back."""

    more: bool
    recovered: int
    failing: int
    dropped: tuple[str, ...]


def _stalled(queue: str, job: bytes, count: int, fails: int) -> JobStalled:
    return JobStalled(JobRef(queue_name(queue), text(job)), count, bool(fails))


def _as_it_is(reply: Any) -> Any:
    return reply


def _call(  # noqa: PLR0917 - a Call has that many parts
    script: str,
    queue: str,
    request: dict[str, Any],
    parse: Any,
    resend: Resend,
    ids: tuple[str, ...] = (),
) -> Call[Any]:
    return Call(script, (queue,), (msgspec.msgpack.encode(request),), parse, resend, ids)
