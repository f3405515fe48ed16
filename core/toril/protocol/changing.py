"""Changing jobs that are there, and pausing queues."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, Final, Literal

import msgspec

from toril.connection.call import Argument, Call, Procedure, Read, Resend
from toril.job_events import JobRetried
from toril.protocol.effects import RETRIED, Effects, Wants, with_effects
from toril.protocol.keys import can_be_job, queue_name
from toril.protocol.record import CallRecord, pack_record, refuse_late, resend_for
from toril.protocol.refusals import refusal
from toril.protocol.replies import text
from toril.snapshots import JobRef
from toril.types import Outcome

RETRIED_PER_CALL: Final = 100
PROMOTED_PER_CALL: Final = 200


def retry_job(
    queue: str,
    id: str,
    state: Outcome,
    *,
    reset_attempts: bool = False,
    reset_started: bool = False,
    wants: Wants = frozenset(),
) -> Call[Effects[None]]:
    """Put a finished job back to run, by its priority.

    Its result or reason and its times go; a living parent has it as an open child again. With its
    attempts used up the next failure is final, unless they are reset.

    Args:
        queue: The queue's key.
        id: The job's id.
        state: How it ended.
        reset_attempts: Count its attempts from 0 again.
        reset_started: Count how often it was picked up from 0 again.
        wants: The event hooks that somebody implements.

    The result raises `JobNotFound`, and `JobStateError` if it did not end so, or a rule has taken
    its data.
    """
    request = {
        "state": state,
        "id": id,
        "reset_attempts": reset_attempts,
        "reset_started": reset_started,
    }

    def parse(reply: Any) -> Effects[None]:
        code, retried, _, told, _ = reply
        if code < 0:
            raise refusal(code, queue, id, f"is not {state}")
        return with_effects(None, told, _retried(queue, state, retried, wants))

    return Call("retry", (queue,), (_pack(request),), parse, job_ids=(id,))


def retry_all(
    queue: str,
    state: Outcome,
    *,
    before: int,
    limit: int | None = None,
    reset_attempts: bool = False,
    reset_started: bool = False,
    wants: Wants = frozenset(),
) -> Procedure[int]:
    """Put back to run all jobs that ended so until `before`, oldest first, 100 a call.

    `before` (milliseconds since the epoch) keeps jobs that fail again meanwhile from being put
    back for ever. `limit`: at most so many. The other arguments are those of `retry_job`. Returns
    how many there were. Jobs of which a rule has taken the data stay.
    """
    request = {
        "state": state,
        "before": str(before),
        "reset_attempts": reset_attempts,
        "reset_started": reset_started,
    }

    def parse(reply: Any) -> Effects[tuple[int, bool, int]]:
        _, retried, more, told, staying = reply
        events = _retried(queue, state, retried, wants)
        return with_effects((len(retried), bool(more), staying), told, events)

    total, skip, more = 0, 0, True
    while more and total != limit:
        most = RETRIED_PER_CALL if limit is None else min(limit - total, RETRIED_PER_CALL)
        arguments = (_pack({**request, "limit": most, "skip": skip}),)
        count, more, staying = yield Call("retry", (queue,), arguments, parse)
        total, skip = total + count, skip + staying
    return total


def promote_job(queue: str, id: str) -> Call[Effects[None]]:
    """Let a delayed job run now, by its priority.

    The result raises `JobNotFound`, and `JobStateError` if it is not delayed.
    """

    def parse(reply: Any) -> Effects[None]:
        code, _, _, told = reply
        if code < 0:
            raise refusal(code, queue, id, "is not delayed")
        return with_effects(None, told)

    return Call("promote", (queue,), (_pack({"id": id}),), parse, job_ids=(id,))


def change_delay(
    queue: str, id: str, delay_ms: int, *, now: int, record: CallRecord | None = None
) -> Call[None]:
    """Let a delayed job run `delay_ms` milliseconds from now.

    Args:
        queue: The queue's key.
        id: The job's id.
        delay_ms: Milliseconds, at least 0.
        now: Milliseconds since the epoch.
        record: Makes the call safe to send again.

    The result raises `JobNotFound`, and `JobStateError` if it is not delayed.
    """
    request = {"id": id, "delay": delay_ms, "now": now}
    return _recorded("change_delay", queue, id, request, record)


def change_priority(
    queue: str, id: str, priority: int, *, lifo: bool = False, record: CallRecord | None = None
) -> Call[None]:
    """Give a job another priority; one that waits gets its place by it.

    Args:
        queue: The queue's key.
        id: The job's id.
        priority: 1 is the most urgent; 0: none, so that it goes before all that have one.
        lifo: It goes before the others of that priority, not behind them.
        record: Makes the call safe to send again.

    The result raises `JobNotFound`.
    """
    request = {"id": id, "priority": priority, "lifo": lifo}
    return _recorded("change_priority", queue, id, request, record)


def _recorded(
    script: str, queue: str, id: str, request: dict[str, Any], record: CallRecord | None
) -> Call[None]:
    if not can_be_job(id):
        raise refusal(-1, queue, id)
    if record is not None:
        request["record"] = pack_record(record)

    def parse(code: Any) -> None:
        refuse_late(code)
        if code < 0:
            raise refusal(code, queue, id, "is not delayed")

    return Call(script, (queue,), (_pack(request),), parse, resend_for(record), (id,))


def promote_all(queue: str, limit: int | None = None) -> Procedure[int]:
    """Let as many delayed jobs run as there are now, earliest first, 200 a call.

    `limit`: at most so many. Returns how many were promoted.
    """

    def parse(reply: Any) -> Effects[tuple[int, int]]:
        return with_effects((reply[1], reply[2]), reply[3])

    left: int = yield Read((("ZCARD", f"{queue}:delayed"),), lambda replies: replies[0])
    if limit is not None:
        left = min(left, limit)
    total = 0
    while left > 0:
        arguments = (_pack({"limit": min(left, PROMOTED_PER_CALL)}),)
        promoted, looked_at = yield Call("promote", (queue,), arguments, parse)
        if not looked_at:
            break
        total += promoted
        left -= looked_at
    return total


def pause(queue: str) -> Call[None]:
    """Stop fetches from the queue. Jobs stay where they are; active ones go on."""
    return Call("pause", (queue,), (_pack({"paused": True}),), _nothing, Resend.ALWAYS)


def resume(queue: str) -> Procedure[None]:
    """Let the queue run again.

    Jobs that BullMQ 5 had put aside join the waiting ones, 1000 a call.
    """
    more = True
    while more:
        more = yield Call("pause", (queue,), (_pack({"paused": False}),), bool, Resend.ALWAYS)


def update_data(queue: str, id: str, data: str, *, token: str | None = None) -> Call[None]:
    """Replace the payload of a job.

    Args:
        queue: The queue's key.
        id: The job's id.
        data: The payload as JSON text.
        token: Only if the job is locked with this token.

    The result raises `JobNotFound`, and with a token `LockLost`.
    """
    return _update("data", queue, id, data, token=token, resend=Resend.ALWAYS)


def update_progress(queue: str, id: str, progress: str, *, token: str | None = None) -> Call[None]:
    """Report progress, a JSON text; for the other arguments see `update_data`."""
    return _update("progress", queue, id, progress, token=token, resend=Resend.ALWAYS)


def add_log(
    queue: str, id: str, line: str, *, keep_logs: int | None = None, token: str | None = None
) -> Call[int]:
    """Append a line to the log of a job and keep the last `keep_logs` lines (None or 0: all).

    The result: how many lines there are. For the other arguments see `update_data`.
    """
    # A line sent twice is there twice.
    return _update("log", queue, id, line, keep=keep_logs, token=token, resend=Resend.NEVER)


def clear_logs(
    queue: str, id: str, *, keep_logs: int | None = None, token: str | None = None
) -> Call[None]:
    """Remove the log of a job but for the last `keep_logs` lines (None or 0: all of it)."""
    return _update("clear_logs", queue, id, "", keep=keep_logs, token=token, resend=Resend.ALWAYS)


def _update(
    action: Literal["data", "progress", "log", "clear_logs"],
    queue: str,
    id: str,
    value: str,
    *,
    token: str | None,
    resend: Resend,
    keep: int | None = None,
) -> Call[Any]:
    if not can_be_job(id):
        raise refusal(-1, queue, id)
    request: dict[str, Any] = {"action": action, "id": id}
    if token is not None:
        request["token"] = token
    if keep is not None:
        request["keep"] = keep

    def parse(code: Any) -> int | None:
        if code < 0:
            raise refusal(code, queue, id)
        return int(code) if action == "log" else None

    return Call("update", (queue,), (_pack(request), value), parse, resend, (id,))


def close_window(queue: str, deduplication: str, *, owner: str | None = None) -> Call[bool]:
    """Close a deduplication window; False if it was not open, or not owned by the job `owner`."""
    request = {"id": deduplication} if owner is None else {"id": deduplication, "owner": owner}
    return Call("close_window", (queue,), (_pack(request),), bool, Resend.ALWAYS)


def set_limits(
    queue: str, *, set: Mapping[str, int] = MappingProxyType({}), unset: Sequence[str] = ()
) -> Call[None]:
    """Set or take back limits of a queue that hold for all of its workers.

    Args:
        queue: The queue's key.
        set: Fields of its `meta`: `concurrency`, `max`, `duration` (ms).
        unset: Such fields to take away.
    """
    request = {"set": [str(part) for field in set.items() for part in field], "unset": list(unset)}
    return Call("limits", (queue,), (_pack(request),), _nothing, Resend.ALWAYS)


def hold_back(queue: str, duration_ms: int) -> Call[None]:
    """Let no worker take a job for so long, where a rate is limited."""
    request = {"set": (), "unset": (), "hold": duration_ms}
    return Call("limits", (queue,), (_pack(request),), _nothing, Resend.ALWAYS)


def end_hold(queue: str) -> Call[bool]:
    """End the window of the rate limit; False if there is none."""
    request = {"set": (), "unset": (), "hold": 0}
    return Call("limits", (queue,), (_pack(request),), bool, Resend.ALWAYS)


def _retried(queue: str, state: Outcome, ids: list[bytes], wants: Wants) -> tuple[JobRetried, ...]:
    if RETRIED not in wants:
        return ()
    name = queue_name(queue)
    return tuple(JobRetried(JobRef(name, text(raw)), state) for raw in ids)


def _pack(request: dict[str, Any]) -> Argument:
    return msgspec.msgpack.encode(request)


def _nothing(reply: Any) -> None:  # noqa: ARG001 - there is nothing to read in it
    return None
