"""What Toril itself can say about a job: where it is, why, and what comes next."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from toril.connection.call import Procedure
from toril.context import Context
from toril.duration import duration_text
from toril.hooks.context import Fact
from toril.options import POLICY_OPTION
from toril.protocol import reading
from toril.protocol.dependencies import DependencyPage, dependency_page, failed_among
from toril.protocol.standing import Standing, standing
from toril.snapshots import JobRef, JobSnapshot, ParentRef, Recalled
from toril.types import State

_CHILDREN: Final = 200
"""About how many unfinished children are looked at."""
_NAMED: Final = 3

_POLICIES = {
    "fail": "the parent fails",
    "continue": "the parent runs at once",
    "ignore": "the parent runs when the others are done, and can read the failure",
    "remove": "the parent runs when the others are done, and learns nothing of it",
}


def explain(context: Context, ref: JobRef) -> Procedure[list[Fact]]:
    """The facts about a job. Raises `JobNotFound`."""
    key = context.key(ref.queue, ref.prefix)
    job = yield from context.job_at(key, ref.id)
    if job is None:
        raise context.job_not_found(ref.queue, ref.id)
    state: State = yield reading.state(key, ref.id)
    around: Standing = yield standing(key, ref.id)
    blocking: tuple[str, ...] = ()
    if around.children_open:
        children: DependencyPage = yield dependency_page(
            key, ref.id, "unprocessed", count=_CHILDREN
        )
        blocking = yield failed_among(children.children)
    return facts(job, state, around, blocking)


def facts(
    job: JobSnapshot, state: State, around: Standing, blocking: Sequence[str] = ()
) -> list[Fact]:
    """What these mean to a person. `blocking`: keys of failed children that keep it waiting."""
    found = [_state(job, state, around), _attempts(job)]
    if around.paused and state in ("waiting", "prioritized", "delayed"):
        found.append(Fact("queue", "the queue is paused: no worker takes a job from it"))
    if job.reason is not None and state != "completed":
        found.append(Fact("failure", f"its last attempt failed: {job.reason}", job.finished))
    if job.deferred_failure is not None and state != "failed":
        text = f"the next worker fails it without running it: {job.deferred_failure}"
        found.append(Fact("next", text))
    if around.children_failed:
        text = f"it cannot complete: {around.children_failed} of its children failed"
        found.append(Fact("children", text))
    if blocking:
        found.append(_blocking(blocking))
    if job.parent is not None:
        found.append(_parent(job, job.parent))
    return found


def gone_facts(recalled: Recalled | None, told: Sequence[Fact]) -> list[Fact]:
    """What plugins still know of a job that is gone; nothing if none of them knows of it.

    `told`: what they say when asked about it. One that knows of it tells its state.
    """
    if recalled is not None:
        return [*_recalled(recalled), *told]
    return list(told) if any(fact.subject == "state" for fact in told) else []


def _recalled(told: Recalled) -> list[Fact]:
    text = f"gone; it {told.outcome}, as {told.told_by!r} tells"
    found = [Fact("state", text, told.finished)]
    if told.reason is not None:
        found.append(Fact("failure", f"its last attempt failed: {told.reason}", told.finished))
    return found


def _state(job: JobSnapshot, state: State, around: Standing) -> Fact:
    if state == "delayed":
        return Fact("state", "delayed: it waits for its time", around.due)
    if state == "active":
        if around.locked_for is None:
            text = "active, but no worker holds it: the stalled check will put it back"
        else:
            text = f"active: a worker holds it for another {duration_text(around.locked_for)}"
        return Fact("state", text, job.processed)
    if state == "waiting-children":
        return Fact("state", f"waiting for {around.children_open} of its children", job.created)
    if state == "unknown":
        return Fact("state", "it is stored, but in no set of its queue: nobody will run it")
    if state in ("completed", "failed"):
        return Fact("state", state, job.finished)
    text = "waiting to be run" if state == "waiting" else f"waiting, with priority {job.priority}"
    return Fact("state", text, job.created)


def _attempts(job: JobSnapshot) -> Fact:
    text = f"{job.attempts_made} of {max(1, job.attempts)} attempts have ended"
    if job.stalled_count:
        text += f"; its worker vanished {job.stalled_count} times"
    return Fact("attempts", text)


def _blocking(children: Sequence[str]) -> Fact:
    named = [" ".join(key.rsplit(":", 2)[1:]) for key in children[:_NAMED]]
    if len(children) > _NAMED:
        named.append("…")
    text = f"has failed and keeps it waiting until it is retried or removed: {named[0]}"
    if len(children) > 1:
        text = f"have failed and keep it waiting until retried or removed: {', '.join(named)}"
    return Fact("children", f"{len(children)} of them {text}")


def _parent(job: JobSnapshot, parent: ParentRef) -> Fact:
    said = [policy for policy, option in POLICY_OPTION.items() if job.opts.get(option)]
    then = _POLICIES[said[0]] if said else "the parent goes on waiting"
    return Fact(
        "parent",
        f"it is a child of {parent.id!r} in queue {parent.queue!r}; if it fails for good, {then}",
    )
