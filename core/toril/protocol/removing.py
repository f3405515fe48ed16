"""Removing jobs on somebody's request: one, those of a state, what waits, a whole queue."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import msgspec

from toril.connection.call import Call, Procedure, Read
from toril.errors import JobLocked, JobStateError
from toril.protocol.changing import pause
from toril.protocol.dependencies import DEPENDENCY_KINDS, DependencyPage, dependency_page
from toril.protocol.effects import REMOVED, Effects, Wants, with_effects
from toril.protocol.keys import can_be_job, queue_name
from toril.protocol.reading import queue_keys
from toril.protocol.refusals import refusal
from toril.protocol.replies import text
from toril.removals import KeptJob, Removals, rejection
from toril.types import RemovalCause, State

REMOVED_PER_CALL: Final = 100
_KEYS_PER_CALL: Final = 500
_TOO_LARGE: Final = -22
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


def remove_job(
    queue: str,
    id: str,
    *,
    with_children: bool,
    now: int,
    wants: Wants = frozenset(),
) -> Procedure[bool]:
    """Remove a job in whatever state it is; True, or False if there was none.

    Its parent loses the child, and runs if that was the last open one. A tree of up to 100 jobs is
    removed in one step. A larger one goes in several, from below, after a look at all of its jobs;
    its upper jobs cannot start meanwhile.

    Args:
        queue: The queue's key.
        id: The job's id.
        with_children: Remove everything below it, too, in any queue.
        now: Milliseconds since the epoch.
        wants: The event hooks that somebody implements.

    Raises:
        JobLocked: A worker is running it, or an open job below it.
        JobStateError: It is the iteration that a schedule waits for.
        Reject: A plugin keeps it, or a job below it.
    """
    if not can_be_job(id):
        return False
    tree = _Tree(queue, now, want_removed=REMOVED in wants)
    return (yield from tree.remove(queue, id, children=with_children))


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
    a living parent waiting: cleaning changes nothing for any other job. Works in slices of 100.

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
        left = limit - len(removed) if limit else REMOVED_PER_CALL + 1
        request = {
            "sets": _CLEANABLE[state],
            "before": before,
            "position": position,
            "limit": min(left, REMOVED_PER_CALL),
            "last": left <= REMOVED_PER_CALL,
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
    that loses its last open child goes along; one of another queue runs. Works in slices of 100,
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
        limit = min(left, REMOVED_PER_CALL)
        request = {"sets": sets, "position": position, "limit": limit}
        ids, position, kept = yield _slice("drain", queue, request, now, wants)
        removed += map(text, ids)
        removed.pass_over(kept_jobs(kept))
        left -= limit
    return removed


def obliterate(queue: str, *, force: bool, now: int, wants: Wants = frozenset()) -> Procedure[None]:
    """Remove a queue: its jobs, schedules, settings, events and everything of Toril's.

    Plugins are asked about every job first. Then the queue is paused; if it is refused because
    somebody took a job just then, it stays so. Works in slices of 100 jobs.

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


class _Tree:
    """One removal, with what its calls have in common."""

    def __init__(self, queue: str, now: int, *, want_removed: bool) -> None:
        self._queue = queue
        self._now = now
        self._want_removed = want_removed
        self._doomed: dict[str, bool] = {}

    def remove(self, queue: str, id: str, *, children: bool) -> Procedure[bool]:
        codes = yield from self._call([(queue, id)], "operator", children=children)
        if codes[0] == _TOO_LARGE:
            yield from self._look([(queue, id)], "operator", open=True)
            yield from self._look_below(queue, id)
            yield from self._remove_below(queue, id, open=True)
            codes = yield from self._call([(queue, id)], "operator", children=False)
        return codes[0] == 1

    def _call(
        self,
        targets: list[tuple[str, str]],
        cause: RemovalCause,
        *,
        children: bool,
        open: bool = True,
        look: bool = False,
    ) -> Procedure[list[int]]:
        """The codes of targets: 1, 0 or `_TOO_LARGE`; for any other the error is raised."""
        codes: list[int]
        codes, kept = yield removal(
            self._queue,
            targets,
            cause,
            children=children,
            open=open,
            look=look,
            doomed=self._doomed,
            now=self._now,
            want_removed=self._want_removed,
        )
        for code, (queue, id) in zip(codes, targets, strict=False):
            if code == _KEPT:
                raise rejection(f"job {id!r} of queue {queue_name(queue)!r}", kept_jobs(kept))
            if code < 0 and code != _TOO_LARGE:
                raise refusal(code, queue, id)
        return codes

    def _remove_below(self, queue: str, id: str, *, open: bool) -> Procedure[None]:
        """Remove the children of a job that is itself to go in a later call.

        `open`: whether this job, if locked, would have stopped the removal.
        """
        self._doomed[f"{queue}:{id}"] = True
        for kind in DEPENDENCY_KINDS:
            cursor: str | None = "0"
            while cursor is not None:
                page: DependencyPage = yield dependency_page(queue, id, kind, cursor)
                targets = [_split(key) for key in page.children]
                yield from self._remove_children(targets, open=open and kind == "unprocessed")
                cursor = page.cursor

    def _remove_children(self, targets: list[tuple[str, str]], *, open: bool) -> Procedure[None]:
        while targets:
            some = targets[:REMOVED_PER_CALL]
            codes = yield from self._call(some, "parent", children=True, open=open)
            for target, code in zip(targets, codes, strict=False):
                if code == _TOO_LARGE:
                    yield from self._remove_below(*target, open=open)
                    yield from self._call([target], "parent", children=False, open=open)
            targets = targets[len(codes) :]

    def _look(
        self, targets: list[tuple[str, str]], cause: RemovalCause, *, open: bool
    ) -> Procedure[None]:
        """Raise what removing these jobs would raise: they are locked, or a plugin keeps them.

        `open`: whether a lock counts; see `_remove_below`.
        """
        for start in range(0, len(targets), REMOVED_PER_CALL):
            some = targets[start : start + REMOVED_PER_CALL]
            yield from self._call(some, cause, children=False, open=open, look=True)

    def _look_below(self, queue: str, id: str) -> Procedure[None]:
        """`_look` at all jobs below a job."""
        seen: set[str] = set()
        parents = [(queue, id, True)]
        while parents:
            parent_queue, parent_id, open = parents.pop()
            for kind in DEPENDENCY_KINDS:
                still_open = open and kind == "unprocessed"
                cursor: str | None = "0"
                while cursor is not None:
                    page: DependencyPage = yield dependency_page(
                        parent_queue, parent_id, kind, cursor
                    )
                    new = [key for key in page.children if key not in seen]
                    seen.update(new)
                    targets = [_split(key) for key in new]
                    yield from self._look(targets, "parent", open=still_open)
                    parents += [(*target, still_open) for target in targets]
                    cursor = page.cursor


def removal(
    queue: str,
    targets: Sequence[tuple[str, str]],
    cause: RemovalCause,
    *,
    children: bool,
    doomed: Mapping[str, bool],
    now: int,
    want_removed: bool,
    open: bool = True,
    look: bool = False,
) -> Call[Effects[tuple[list[int], Sequence[Any]]]]:
    """Remove at most 100 jobs, given by queue and id: a code for each, and what plugins keep.

    The arguments, and the codes, are the script's.
    """
    request = {
        "targets": targets,
        "children": children,
        "open": open,
        "cause": cause,
        "want_removed": want_removed,
        "now": now,
        "doomed": doomed,
        "look": look,
    }
    return Call(
        "remove",
        (queue,),
        (msgspec.msgpack.encode(request),),
        lambda reply: with_effects((list(reply[0]), reply[1]), reply[2]),
        job_ids=tuple(target[1] for target in targets),
    )


def kept_jobs(entries: Sequence[Sequence[bytes]]) -> list[KeptJob]:
    """Which jobs a script kept, and why."""
    return [KeptJob(queue_name(text(queue)), *map(text, rest)) for queue, *rest in entries]


def _split(key: str) -> tuple[str, str]:
    """Queue and id of a child, whose key is all that its parent knows."""
    queue, _, child_id = key.rpartition(":")
    return queue, child_id


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
