"""Adding flows, and reading them back."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from typing import Final, TypeVar

from toril.arguments import whole_number
from toril.connection.call import Procedure
from toril.context import Context, existing_job
from toril.errors import ConfigurationError
from toril.flow import Flow, FlowTree, check_flow, flow_drafts
from toril.new_job import Drafted
from toril.operations import MOST_DATA
from toril.protocol import adding, dependencies, reading
from toril.protocol.adding import Added, NewNode
from toril.protocol.keys import queue_name, slot
from toril.protocol.large_flows import add_large_flow
from toril.setting import Setting
from toril.settings import say
from toril.snapshots import JobRef, JobSnapshot, Recalled
from toril.types import State

J = TypeVar("J")

_COUNTED: Final = 100
"""Jobs whose children are counted in one go."""


class FlowOperations:
    """Adding flows and reading them back."""

    def __init__(self, context: Context) -> None:
        self._context = context

    def add(
        self, flow: Flow, settings: Sequence[Setting], *, one_slot: bool
    ) -> Procedure[JobSnapshot]:
        """Add a flow, all or nothing up to 200 nodes, else in steps. Returns the root.

        `one_slot`: the server is a cluster, so all queues have to be in one slot.
        """
        return self._add_one(self._drafted(flow, settings, "add_flow", one_slot=one_slot))

    def add_many(
        self, flows: Sequence[Flow], settings: Sequence[Setting], *, one_slot: bool
    ) -> Procedure[list[JobSnapshot]]:
        """Add flows one after another, all checked and planned before the first."""
        return self._add(
            [self._drafted(flow, settings, "add_flows", one_slot=one_slot) for flow in flows]
        )

    def _drafted(
        self, flow: Flow, settings: Sequence[Setting], source: str, *, one_slot: bool
    ) -> list[Drafted]:
        check_flow(flow, f"what {source} adds")
        context = self._context
        now = context.clock.now_ms()
        said = say("flow", settings, source, now)
        drafts = flow_drafts(flow, said, context, now)
        if one_slot:
            _check_slots({one.node.queue for one in drafts})
        return drafts

    def _add_one(self, drafted: Sequence[Drafted]) -> Procedure[JobSnapshot]:
        (root,) = yield from self._add([drafted])
        return root

    def _add(self, flows: Sequence[Sequence[Drafted]]) -> Procedure[list[JobSnapshot]]:
        planned: list[list[NewNode]] = []
        for drafted in flows:
            nodes = yield from self._context.planned(drafted)
            planned.append(nodes)
        roots: list[JobSnapshot] = []
        for some in _in_one_call(planned):
            for (node, *_), root in zip(some, (yield from self._save(some)), strict=True):
                if root.error is not None:
                    root.error.add_note(f"{len(roots)} of the {len(flows)} flows were added")
                    raise root.error
                snapshot = node.snapshot(root.id)
                if root.duplicate:
                    snapshot = yield from existing_job(node, root)
                roots.append(snapshot)
        return roots

    def _save(self, flows: Sequence[Sequence[NewNode]]) -> Procedure[list[Added]]:
        """Write flows, in one call or, a large one, in steps. What became of the roots."""
        context = self._context
        wants = context.plugins.wants
        added: tuple[Added, ...]
        if len(flows[0]) > adding.LARGEST_FLOW:
            added = yield from add_large_flow(
                flows[0], clock=context.clock.now_ms, calls=context.lanes.call, wants=wants
            )
        else:
            with context.lanes.call() as record:
                now = context.clock.now_ms()
                added = yield adding.add_flows(flows, now=now, record=record, wants=wants)
        starts = accumulate((len(flow) for flow in flows[:-1]), initial=0)
        return [added[start] for start in starts]

    def tree(self, root: JobRef, depth: int, width: int) -> Procedure[StoredTree]:
        """A flow as it is stored, from `root` downwards, level by level."""
        whole_number(depth, "depth", least=1)
        whole_number(width, "width", least=1)
        return self._tree(root, depth, width)

    def _tree(self, root: JobRef, depth: int, width: int) -> Procedure[StoredTree]:
        key = self._context.key(root.queue, root.prefix)
        found = yield from _stored_nodes(self._context, (f"{key}:{root.id}",))
        if not found:
            raise self._context.job_not_found(root.queue, root.id)
        (top,) = level = list(found.values())
        for left in range(depth - 1, -1, -1):
            yield from _add_children(self._context, level, width if left else 0)
            level = [child for node in level for child in node.children]
        return top


@dataclass(slots=True)
class StoredTree:
    """A node of a flow as it is stored, and the nodes below it."""

    queue_key: str
    job: JobSnapshot
    state: State
    children: list[StoredTree] = field(default_factory=list["StoredTree"])
    cut: bool = False
    gone: list[JobRef] = field(default_factory=list["JobRef"])

    def all_gone(self) -> Iterator[JobRef]:
        """The children of this node and of all below it that are gone."""
        yield from self.gone
        for child in self.children:
            yield from child.all_gone()

    def of(
        self, make: Callable[[JobSnapshot], J], recalled: Mapping[JobRef, Recalled | None]
    ) -> FlowTree[J]:
        """The same with the jobs of one face. `recalled`: what is known of those that are gone."""
        children = tuple(child.of(make, recalled) for child in self.children)
        gone = {ref: recalled[ref] for ref in self.gone}
        return FlowTree(make(self.job), self.state, children, self.cut, gone)


def _in_one_call(flows: Sequence[Sequence[NewNode]]) -> Iterator[Sequence[Sequence[NewNode]]]:
    """The flows in parts that one call can take; a flow that none can take is a part of its own."""
    part: list[Sequence[NewNode]] = []
    nodes = size = 0
    for flow in flows:
        data = sum(len(node.data) for node in flow)
        nodes, size = nodes + len(flow), size + data
        fits = nodes <= adding.LARGEST_FLOW and size <= MOST_DATA
        if part and not (fits and flow[0].queue == part[0][0].queue):
            yield part
            part, nodes, size = [], len(flow), data
        part.append(flow)
    if part:
        yield part


def _add_children(context: Context, nodes: Sequence[StoredTree], width: int) -> Procedure[None]:
    """Read at most `width` children of each of the nodes of a level."""
    below: list[tuple[StoredTree, list[str]]] = []
    for start in range(0, len(nodes), _COUNTED):
        some = nodes[start : start + _COUNTED]
        keys = [f"{node.queue_key}:{node.job.id}" for node in some]
        counts: list[dict[str, int]] = yield dependencies.counts_of(keys)
        for node, sizes in zip(some, counts, strict=True):
            node.cut = sum(sizes.values()) > width
            if width and any(sizes.values()):
                below.append((node, (yield from _child_keys(node, sizes, width))))
    found = yield from _stored_nodes(context, [key for _, keys in below for key in keys])
    for node, keys in below:
        for key in keys:
            child = found.get(key)
            if child is not None:
                node.children.append(child)
            else:
                queue_key, _, job_id = key.rpartition(":")
                prefix = context.other(queue_key.rpartition(":")[0])
                node.gone.append(JobRef(queue_name(queue_key), job_id, prefix))


def _child_keys(node: StoredTree, counts: Mapping[str, int], width: int) -> Procedure[list[str]]:
    """The keys of at most `width` children of a node."""
    keys: dict[str, None] = {}
    for kind in dependencies.DEPENDENCY_KINDS:
        # An open child may end meanwhile, and then be of a kind of which there was none.
        cursor: str | None = "0" if counts[kind] or counts["unprocessed"] else None
        while cursor is not None and len(keys) < width:
            page: dependencies.DependencyPage = yield dependencies.dependency_page(
                node.queue_key, node.job.id, kind, cursor
            )
            keys.update(dict.fromkeys(page.children))
            cursor = page.cursor
    return list(keys)[:width]


def _stored_nodes(context: Context, keys: Sequence[str]) -> Procedure[dict[str, StoredTree]]:
    """The jobs with these keys that exist, and their states, 100 of a queue at a time."""
    ids: dict[str, list[str]] = {}
    for key in keys:
        queue_key, _, job_id = key.rpartition(":")
        ids.setdefault(queue_key, []).append(job_id)
    found: dict[str, StoredTree] = {}
    for queue_key, some in ids.items():
        prefix = context.other(queue_key.rpartition(":")[0])
        jobs = yield from reading.jobs(queue_key, some, prefix)
        states = yield from reading.states(queue_key, some)
        for job, state in zip(jobs, states, strict=True):
            if job is not None:
                found[f"{queue_key}:{job.id}"] = StoredTree(queue_key, job, state)
    return found


def _check_slots(keys: set[str]) -> None:
    if len({slot(f"{key}:meta") for key in keys}) > 1:
        raise ConfigurationError(
            f"the queues of this flow ({', '.join(sorted(keys))}) are in different slots of the "
            "cluster, and a flow is written in one step; give them one hash tag: '{order}in' and "
            "'{order}steps', or App(url, prefix='{bull}')"
        )
