"""Removing jobs with what is below them, and loosening parents from their children."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import msgspec

from toril.connection.call import Call, Procedure
from toril.protocol.dependencies import (
    DEPENDENCY_KINDS,
    DependencyPage,
    dependency_page,
    parents_among,
)
from toril.protocol.effects import REMOVED, Effects, Wants, with_effects
from toril.protocol.keys import can_be_job, queue_name
from toril.protocol.record import CallRecord, pack_record, refuse_late, resend_for
from toril.protocol.refusals import refusal
from toril.protocol.replies import text
from toril.removals import KeptJob, Removals, rejection
from toril.types import RemovalCause

REMOVED_PER_CALL: Final = 25
_TOO_LARGE: Final = -22
_KEPT: Final = -24


def remove_job(
    queue: str,
    id: str,
    *,
    with_children: bool,
    now: int,
    wants: Wants = frozenset(),
) -> Procedure[bool]:
    """Remove a job in whatever state it is; True, or False if there was none.

    Its parent loses the child, and runs if that was the last open one. A tree of up to 50 jobs is
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


def unprocessed_children(queue: str, id: str) -> Procedure[list[tuple[str, str]]]:
    """Queue key and id of every child that has not ended, or failed without any policy."""
    found: dict[tuple[str, str], None] = {}
    cursor: str | None = "0"
    while cursor is not None:
        page: DependencyPage = yield dependency_page(queue, id, "unprocessed", cursor)
        found.update(dict.fromkeys(map(_split, page.children)))
        cursor = page.cursor
    return list(found)


def remove_unprocessed(
    queue: str,
    children: Sequence[tuple[str, str]],
    *,
    now: int,
    wants: Wants = frozenset(),
) -> Procedure[Removals]:
    """Remove children of a job that have not ended, each with those below it; their ids.

    What a worker runs, has failed, has completed, is waited for by a schedule, or is kept by a
    plugin is passed over. The parent loses the others, and runs if it waits for nothing else.

    Args:
        queue: The key of the parent's queue.
        children: Queue key and id of each.
        now: Milliseconds since the epoch.
        wants: The event hooks that somebody implements.
    """
    tree = _Tree(queue, now, want_removed=REMOVED in wants)
    return (yield from tree.prune(children, "operator"))


def unlink(queue: str, id: str, *, record: CallRecord | None = None) -> Call[bool]:
    """Take an open child off its parent, which runs if it waits for nothing else.

    Args:
        queue: The key of the child's queue.
        id: The child's id.
        record: Makes the call safe to send again.

    The result: False if the parent does not wait for it. It raises `JobNotFound`, and `ParentError`
    if the job has no parent that exists.
    """
    if not can_be_job(id):
        raise refusal(-1, queue, id)
    request: dict[str, Any] = {"id": id}
    if record is not None:
        request["record"] = pack_record(record)

    def parse(code: Any) -> bool:
        refuse_late(code)
        if code < 0:
            raise refusal(code, queue, id)
        return bool(code)

    arguments = (msgspec.msgpack.encode(request),)
    return Call("unlink", (queue,), arguments, parse, resend_for(record), (id,))


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

    def prune(self, targets: Sequence[tuple[str, str]], cause: RemovalCause) -> Procedure[Removals]:
        """Remove those of the targets that can go, each with its open children."""
        removed = Removals()
        while targets:
            some = targets[:REMOVED_PER_CALL]
            codes, kept = yield from self._prune(some, cause, children=True)
            removed.pass_over(kept_jobs(kept))
            for target, code in zip(some, codes, strict=False):
                gone = code == 1
                if code == _TOO_LARGE:
                    gone = yield from self._prune_large(target, cause, removed)
                if gone:
                    removed.append(target[1])
            targets = targets[len(codes) :]
        return removed

    def _prune_large(
        self, target: tuple[str, str], cause: RemovalCause, removed: Removals
    ) -> Procedure[bool]:
        """Prune a target of which one call cannot take all: from below."""
        (code,), kept = yield from self._prune([target], cause, children=False, look=True)
        if code != 1:
            removed.pass_over(kept_jobs(kept))
            return False
        self._doomed[f"{target[0]}:{target[1]}"] = True
        below = yield from unprocessed_children(*target)
        gone = yield from self.prune(below, "parent")
        removed.pass_over(gone.kept)
        (code,), kept = yield from self._prune([target], cause, children=False)
        removed.pass_over(kept_jobs(kept))
        return code == 1

    def _prune(
        self,
        targets: Sequence[tuple[str, str]],
        cause: RemovalCause,
        *,
        children: bool,
        look: bool = False,
    ) -> Procedure[tuple[list[int], Sequence[Any]]]:
        """The codes of targets, and what plugins keep."""
        codes: list[int]
        codes, kept = yield removal(
            self._queue,
            targets,
            cause,
            children=children,
            unprocessed=True,
            look=look,
            doomed=self._doomed,
            now=self._now,
            want_removed=self._want_removed,
        )
        return codes, kept

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
        # Ids of Toril's sort by time: so those that wait are found at the end of their list.
        waiting = yield from unprocessed_children(queue, id)
        yield from self._remove_children(sorted(waiting), open=open)
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
                    yield from self._look([*map(_split, new)], "parent", open=still_open)
                    for start in range(0, len(new), REMOVED_PER_CALL):
                        some = new[start : start + REMOVED_PER_CALL]
                        with_children: list[str] = yield parents_among(some)
                        parents += [(*_split(key), still_open) for key in with_children]
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
    unprocessed: bool = False,
) -> Call[Effects[tuple[list[int], Sequence[Any]]]]:
    """Remove at most 50 jobs, given by queue and id: a code for each, and what plugins keep.

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
        "unprocessed": unprocessed,
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
