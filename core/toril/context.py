"""What operations need to know of their App, and the way of a job from its draft to the server."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, cast

from toril.clock import Clock
from toril.connection.call import Procedure
from toril.connection.lanes import LanePool
from toril.errors import JobNotFound
from toril.live import LiveSettings
from toril.planning import Functions, PlannedJob, plan_removal, plan_saves
from toril.protocol import reading
from toril.protocol.adding import Added, NewNode
from toril.protocol.codec import encode_json
from toril.protocol.keys import queue_key, queue_name, split_job_key
from toril.setting import Said
from toril.snapshots import Draft, JobSnapshot, Removal
from toril.types import RemovalCause, State


@dataclass(frozen=True, slots=True)
class Drafted:
    """A job to be added, and its payload as JSON text."""

    draft: Draft
    data: str


@dataclass(frozen=True, slots=True)
class Context:
    """What operations need to know of their App.

    `functions`, `wants` and `check_settings` answer once the plugins run, which is before a
    procedure does.
    """

    prefix: str
    clock: Clock
    lanes: LanePool
    functions: Functions
    wants: Callable[[], frozenset[str]]
    """The event hooks that somebody implements."""
    check_settings: Callable[[Sequence[Said[Any]]], None]
    """Raises `ConfigurationError` for a setting whose plugin is not in use."""
    live: LiveSettings

    def key(self, queue: str, prefix: str | None = None) -> str:
        """What a queue's keys begin with, under this prefix or that of the App.

        Raises `ConfigurationError` for a bad name or prefix.
        """
        return queue_key(self.prefix if prefix is None else prefix, queue)

    def other(self, prefix: str | None) -> str | None:
        """The prefix if it is another one than the App's."""
        return None if prefix == self.prefix else prefix

    def job_at(self, queue_key: str, id: str) -> Procedure[JobSnapshot | None]:
        """The job as it is stored, wherever that is."""
        prefix = self.other(queue_key.rpartition(":")[0])
        found: JobSnapshot | None = yield reading.job(queue_key, id, prefix)
        return found

    def split(self, job_key: str) -> tuple[str, str]:
        """Queue key and id of the job with that key."""
        return split_job_key(job_key, self.prefix)

    def job_not_found(self, queue: str, id: str) -> JobNotFound:
        """The error that says so."""
        return JobNotFound(f"there is no job {id!r} in queue {queue!r}", queue=queue, job_id=id)

    def planned(self, drafted: Sequence[Drafted]) -> Procedure[list[NewNode]]:
        """The nodes to write, once every plugin has been asked about every draft."""
        ours = [one.draft.queue for one in drafted if one.draft.prefix is None]
        live = yield from self.live.of(ours)
        drafts = [
            replace(one.draft, at_save=live.get(one.draft.queue, {}))
            if one.draft.prefix is None
            else one.draft
            for one in drafted
        ]
        self.check_settings([said for one in drafts for said in one.said])
        now = self.clock.now_ms()
        plans = plan_saves(self.functions, drafts)
        return [_node(self, plan, one.data, now) for plan, one in zip(plans, drafted, strict=True)]

    def ask_before_removal(
        self,
        queue: str,
        action: RemovalCause,
        ids: Sequence[str] | None = None,
        states: Sequence[State] | None = None,
    ) -> None:
        """Ask every plugin whether an operator may remove these. Raises `Reject`, `PluginError`."""
        plan_removal(self.functions, Removal(queue, action, ids, states, self.clock.now_ms()))


def _node(context: Context, plan: PlannedJob, data: str, now: int) -> NewNode:
    made = plan.draft
    return NewNode(
        queue=context.key(made.queue, made.prefix),
        id=made.id,
        name=made.name,
        data=data,
        opts=dict(made.opts),
        timestamp=cast(int, made.opts.get("timestamp", now)),
        parent=made.parent,
        is_parent=made.has_children,
        own=plan.own,
        counter=not made.id,
        given="jobId" in made.opts,
        prefix=made.prefix,
    )


def data_text(one: Draft) -> str:
    """Its payload as JSON text. Raises `InvalidJob` if that cannot be stored."""
    limit = cast("int | None", one.opts.get("sizeLimit"))
    return encode_json(one.data, f"data of job {one.name!r}", most_bytes=limit)


def saved_job(node: NewNode, added: Added) -> Procedure[JobSnapshot]:
    """The job as it is stored; read only if it existed before.

    One that stood for the node and is gone since has nothing but its id.
    """
    if not added.duplicate:
        return node.snapshot(added.id)
    found: JobSnapshot | None = yield reading.job(node.queue, added.id, node.prefix)
    if found is None:
        same = added.id == node.id
        found = (
            node.snapshot(added.id) if same else JobSnapshot(queue_name(node.queue), added.id, {})
        )
    found.duplicate = True
    return found
