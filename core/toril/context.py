"""What operations need to know of their App, and the way of a job from its draft to the server."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import msgspec

from toril.clock import Clock
from toril.connection.call import Procedure
from toril.connection.lanes import LanePool
from toril.errors import JobNotFound
from toril.hooks.function import HookFunction
from toril.hooks.plugin_set import PluginSet
from toril.live import NOTHING_SAID, LiveAtSave, LiveSettings
from toril.new_job import Drafted
from toril.planning import plan_removal, plan_save
from toril.protocol import reading
from toril.protocol.adding import Added, NewNode
from toril.protocol.keys import queue_key, queue_name, split_job_key
from toril.setting import Said
from toril.settings import check_declared
from toril.snapshots import Draft, JobSnapshot, Removal
from toril.types import RemovalCause, State


@dataclass(slots=True)
class Context:
    """What operations need to know of their App."""

    prefix: str
    clock: Clock
    lanes: LanePool
    live: LiveSettings
    plugins: PluginSet = field(init=False)
    """Once they have been loaded, which is before a procedure runs."""

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
        live = yield from self.live.of(
            {one.node.queue for one in drafted if one.node.prefix is None},
            self.plugins.settings_at_save,
        )
        return [self._plan(one, live.get(one.node.queue, NOTHING_SAID)) for one in drafted]

    def planned_now(self, one: Drafted) -> NewNode | None:
        """`planned` for one job; None if the server has to be asked something before."""
        live = self.live.known(one.node.queue, self.plugins.settings_at_save)
        return None if live is None else self._plan(one, live)

    def _plan(self, one: Drafted, live: LiveAtSave) -> NewNode:
        """The node to write, once every plugin has been asked about the draft.

        A plugin that asks for it is passed over where nobody has said anything. `live` is what is
        said for its queue.
        """
        node, said = one.node, one.said
        if said:
            self.check_settings(said)
        if live and node.prefix is not None:
            live = NOTHING_SAID
        functions = self.plugins.savers[bool(said or live)]
        return _asked(functions, one, live) if functions or said else node

    def check_settings(self, said: Sequence[Said[Any]]) -> None:
        """Raise `ConfigurationError` for a setting whose plugin is not in use."""
        check_declared(said, self.plugins.settings)

    def ask_before_removal(
        self,
        queue: str,
        action: RemovalCause,
        ids: Sequence[str] | None = None,
        states: Sequence[State] | None = None,
    ) -> None:
        """Ask every plugin whether an operator may remove these. Raises `Reject`, `PluginError`."""
        plan_removal(
            self.plugins.functions, Removal(queue, action, ids, states, self.clock.now_ms())
        )


def _asked(functions: Sequence[HookFunction], one: Drafted, live: LiveAtSave) -> NewNode:
    """The node of a draft with what the plugins add to it."""
    node = one.node
    draft = Draft(
        queue_name(node.queue),
        node.id,
        node.name,
        one.data,
        node.opts,
        one.said,
        node.parent,
        has_children=node.is_parent,
        at_save=live,
        prefix=node.prefix,
    )
    plan = plan_save(functions, draft)
    if plan.own is None and plan.draft is draft:
        return node
    return msgspec.structs.replace(node, opts=plan.draft.opts, own=plan.own)


def existing_job(node: NewNode, added: Added) -> Procedure[JobSnapshot]:
    """The job that stands where the node was to be written, read from the server.

    One that is gone since has nothing but its id, and what the node says if that is its.
    """
    found: JobSnapshot | None = yield reading.job(node.queue, added.id, node.prefix)
    if found is None:
        same = added.id == node.id
        found = (
            node.snapshot(added.id) if same else JobSnapshot(queue_name(node.queue), added.id, {})
        )
    found.duplicate = True
    return found
