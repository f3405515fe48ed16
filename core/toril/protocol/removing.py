"""Removing jobs on somebody's request: those of a state, what waits, a whole queue."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import msgspec

from toril.connection.call import Call, Procedure, Read
from toril.errors import JobLocked, JobStateError
from toril.protocol.changing import pause
from toril.protocol.effects import REMOVED, Effects, Wants, with_effects
from toril.protocol.keys import queue_name
from toril.protocol.reading import queue_keys
from toril.protocol.replies import text
from toril.protocol.trees import kept_jobs
from toril.removals import Removals, rejection
from toril.types import State

TAKEN_PER_CALL: Final = 25
"""So many jobs of a state go in one slice, at most."""
_KEYS_PER_CALL: Final = 500
_KEPT: Final = -24
_NOT_PAUSED: Final = -1
_ACTIVE: Final = -2

_CLEANABLE: Final[dict[State, tuple[str, ...]]] = {
    "waiting": ("paused", "wait"),
    "active": ("active",),
    "delayed": ("delayed",),
    "prioritized": ("prioritized",),
    "completed": ("completed",),
    "failed": ("failed",),
}


def clean(
    queue: str,
    state: State,
    before: int,
    *,
    limit: int = 0,
    now: int,
    wants: Wants = frozenset(),
) -> Procedure[Removals]:
    """Remove the jobs of a state that are as old as `before` or older; their ids.

    Kept are jobs that a plugin keeps, that a worker runs, that a schedule waits for, and that keep
    a living parent waiting: cleaning changes nothing for any other job. Works in slices of 25.

    Args:
        queue: The queue's key.
        state: Any but `waiting-children`.
        before: Milliseconds since the epoch; the age counts from a job's end, else from its last
            pickup, else from its creation.
        limit: At most that many, oldest first (delayed and prioritised ones: first to run
            first); 0: all.
        now: Milliseconds since the epoch.
        wants: The event hooks that somebody implements.

    Raises:
        ValueError: That state cannot be cleaned.
    """
    if state not in _CLEANABLE:
        raise ValueError(f"jobs that are {state} cannot be cleaned")
    removed = Removals()
    position: Sequence[int] = (1, 0)
    while position:
        left = limit - len(removed) if limit else TAKEN_PER_CALL + 1
        request = {
            "sets": _CLEANABLE[state],
            "before": before,
            "position": position,
            "limit": min(left, TAKEN_PER_CALL),
            "last": left <= TAKEN_PER_CALL,
            "done": len(removed),
        }
        ids, position, kept = yield _slice("clean", queue, request, now, wants)
        removed += map(text, ids)
        removed.pass_over(kept_jobs(kept))
    return removed


def drain(
    queue: str, *, delayed: bool, now: int, wants: Wants = frozenset()
) -> Procedure[Removals]:
    """Remove the jobs that wait for their turn, on request the delayed ones, too.

    Iterations that schedules wait for stay, and so does what a plugin keeps. A parent of the queue
    that loses its last open child goes along; one of another queue runs. Works in slices of 25,
    and takes no more jobs than there were when it began. Returns the ids of the jobs that went.
    """
    sets = ("wait", "paused", "prioritized", *(("delayed",) if delayed else ()))
    sizes = tuple(
        ("LLEN" if name in {"wait", "paused"} else "ZCARD", f"{queue}:{name}") for name in sets
    )
    left: int = yield Read(sizes, sum)
    removed = Removals()
    position: Sequence[int] = (1, 0)
    while position and left > 0:
        limit = min(left, TAKEN_PER_CALL)
        request = {"sets": sets, "position": position, "limit": limit}
        ids, position, kept = yield _slice("drain", queue, request, now, wants)
        removed += map(text, ids)
        removed.pass_over(kept_jobs(kept))
        left -= limit
    return removed


def obliterate(queue: str, *, force: bool, now: int, wants: Wants = frozenset()) -> Procedure[None]:
    """Remove a queue: its jobs, schedules, settings, events and everything of Toril's.

    Plugins are asked about every job first. Then the queue is paused; if it is refused because
    somebody took a job just then, it stays so. Works in slices of 25 jobs.

    Args:
        queue: The queue's key.
        force: Remove jobs that workers are running, too; they cannot end then.
        now: Milliseconds since the epoch.
        wants: The event hooks that somebody implements.

    Raises:
        JobLocked: A job is active and `force` is not given.
        JobStateError: Somebody resumed the queue meanwhile.
        Reject: A plugin keeps jobs. Nothing was removed, unless they were added since the look.
    """
    running: bytes | None = yield Read(
        (("LINDEX", f"{queue}:active", -1),), lambda replies: replies[0]
    )
    if running is not None and not force:
        raise _active(queue, text(running))
    terms = {"force": force, **_noting(now, wants)}
    position: Sequence[int] | bool = (1, 0)
    while position:
        position = yield from _obliterate(queue, {"action": "look", "position": position, **terms})
    yield pause(queue)
    while (yield from _obliterate(queue, {"action": "jobs", **terms})):
        pass
    keys: list[str] = yield from queue_keys(queue)
    foreign = _foreign_prefixes(queue, keys)
    # What the last step needs and removes stays till then.
    left = [key for key in keys if not key.startswith((f"{queue}:meta", *foreign))]
    for start in range(0, len(left), _KEYS_PER_CALL):
        some = left[start : start + _KEYS_PER_CALL]
        while (yield from _obliterate(queue, {"action": "keys", "keys": some, **terms})):
            pass
    while (yield from _obliterate(queue, {"action": "end", **terms})):
        pass


def _obliterate(queue: str, request: Mapping[str, Any]) -> Procedure[Sequence[int] | bool]:
    """One slice: whether there is more to do, and after a look where."""
    code, more, kept = yield Call(
        "obliterate",
        (queue,),
        (msgspec.msgpack.encode(request),),
        lambda reply: with_effects(tuple(reply[:3]), reply[3]),
    )
    name = queue_name(queue)
    if code == _KEPT:
        raise rejection(f"queue {name!r}", kept_jobs(kept))
    if code == _NOT_PAUSED:
        raise JobStateError(f"queue {name!r} was resumed meanwhile", queue=name, job_id="")
    if code == _ACTIVE:
        raise _active(queue, text(more))
    return more if code and more else bool(code)


def _foreign_prefixes(queue: str, keys: Sequence[str]) -> tuple[str, ...]:
    """What the keys of other queues begin with whose prefix begins with this queue's key."""
    return tuple(
        key.removesuffix("meta")
        for key in keys
        if key.endswith(":meta") and not key.startswith((f"{queue}:meta", f"{queue}:toril:"))
    )


def _slice(
    script: str, queue: str, request: Mapping[str, Any], now: int, wants: Wants
) -> Call[Effects[Any]]:
    arguments = msgspec.msgpack.encode({**request, **_noting(now, wants)})
    return Call(
        script, (queue,), (arguments,), lambda reply: with_effects(tuple(reply[:3]), reply[3])
    )


def _noting(now: int, wants: Wants) -> dict[str, Any]:
    return {"now": now, "want_removed": REMOVED in wants}


def _active(queue: str, id: str) -> JobLocked:
    name = queue_name(queue)
    return JobLocked(f"job {id!r} of queue {name!r} is active", queue=name, job_id=id)
