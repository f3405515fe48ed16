"""Flows: trees of jobs in which a parent runs when its children are done."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from copy import copy
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeVar, Unpack

from toril.arguments import name_of_queue, several
from toril.errors import InvalidJob
from toril.new_job import (
    CheckedOptions,
    Drafted,
    JobOptions,
    QueueDefaults,
    check_options,
    check_policy,
    draft,
    ref_of,
)
from toril.setting import Said, Setting
from toril.settings import say
from toril.snapshots import JobRef, ParentRef, Recalled
from toril.types import ChildFailurePolicy, Json, State

if TYPE_CHECKING:
    from toril.queue import Queue

J = TypeVar("J")


@dataclass(frozen=True, slots=True, init=False)
class Flow:
    """A job with children, for `App.add_flow`; the children may be in other queues.

    Args:
        queue: A queue's name, or a `Queue`, which brings its defaults along.
        name: The job's name.
        data: The payload, any JSON value.
        settings: What is said for this one job.
        children: The jobs that have to be done first.
        on_child_failure: What this job does when a child fails for good: `"fail"`, too;
            `"ignore"`: run when the others are done, and see the failure in `job.children()`;
            `"remove"`: the same without seeing it; `"continue"`: run at once; `"wait"` (the
            default, as in BullMQ): go on waiting until the child has been retried or removed. A
            child's own `on_failure` goes before it.
        prefix: What the keys of its queue begin with, if that is not the prefix of the App; each
            node says its own.
        options: As for `Queue.add`. `parent` only makes sense at the root.

    Raises:
        InvalidJob: `on_child_failure` is no policy.
        TypeError: An unknown option.
    """

    queue: str
    name: str
    data: Json
    settings: tuple[Setting, ...]
    children: tuple[Flow, ...]
    on_child_failure: ChildFailurePolicy
    options: JobOptions
    defaults: QueueDefaults
    prefix: str | None

    def __init__(
        self,
        queue: str | Queue,
        name: str,
        data: Json = None,
        /,
        *settings: Setting,
        children: Sequence[Flow] = (),
        on_child_failure: ChildFailurePolicy = "wait",
        prefix: str | None = None,
        **options: Unpack[JobOptions],
    ) -> None:
        check_options("Flow", options)
        check_policy("on_child_failure", on_child_failure)
        given = several(children, "the children of a flow")
        fields: dict[str, object] = {
            "queue": name_of_queue(queue),
            "name": name,
            "data": data,
            "settings": settings,
            "children": tuple(check_flow(child, "a child of a flow") for child in given),
            "on_child_failure": on_child_failure,
            "options": options,
            "defaults": {} if isinstance(queue, str) else queue.defaults,
            "prefix": prefix,
        }
        for attribute, value in fields.items():
            object.__setattr__(self, attribute, value)

    def after(self, *children: Flow, on_child_failure: ChildFailurePolicy | None = None) -> Flow:
        """The same node with these children more; `on_child_failure` None: as it was."""
        policy = on_child_failure or self.on_child_failure
        check_policy("on_child_failure", policy)
        more = [check_flow(child, "a child of a flow") for child in children]
        made = copy(self)
        object.__setattr__(made, "children", (*self.children, *more))
        object.__setattr__(made, "on_child_failure", policy)
        return made


@dataclass(frozen=True, slots=True)
class FlowTree(Generic[J]):
    """A flow as it is stored now.

    `cut` tells that it has more children than were read; `gone` which children are gone, and what
    plugins still know of them.
    """

    job: J
    state: State
    children: tuple[FlowTree[J], ...] = ()
    cut: bool = False
    gone: Mapping[JobRef, Recalled | None] = field(
        default_factory=dict["JobRef", "Recalled | None"]
    )

    def __iter__(self) -> Iterator[FlowTree[J]]:
        """This node and all below it, parents first."""
        yield self
        for child in self.children:
            yield from child


class Keys(Protocol):
    """Where queues are stored."""

    def key(self, queue: str, prefix: str | None = None, /) -> str:
        """What the keys of a queue begin with, under this prefix or that of the App."""
        ...

    def other(self, prefix: str | None, /) -> str | None:
        """The prefix if it is another one than the App's."""
        ...


def check_flow(given: object, what: str) -> Flow:
    """`given` if it is a node of a flow. Raises `TypeError`."""
    if not isinstance(given, Flow):
        raise TypeError(f"{what} is a Flow(queue, name, …), not {given!r}")
    return given


def queues_of(*flows: Flow) -> tuple[str, ...]:
    """The names of the queues of some flows that are under the App's prefix."""
    names: dict[str, None] = {}
    nodes = list(flows)
    while nodes:
        node = nodes.pop()
        if node.prefix is None:
            names[node.queue] = None
        nodes.extend(node.children)
    return tuple(names)


def flow_drafts(
    flow: Flow, flow_said: tuple[Said[Any], ...], keys: Keys, now: int
) -> list[Drafted]:
    """The drafts of all nodes, level by level as BullMQ adds them: parents before their children.

    Args:
        flow: The root.
        flow_said: What was said for the whole flow.
        keys: Gives the key prefix of a queue, and checks its name.
        now: Milliseconds since the epoch.

    Raises:
        InvalidJob: Two nodes of one queue have the same id, or an option cannot be saved.
    """
    drafts: list[Drafted] = []
    taken: set[tuple[str, str]] = set()
    queues: dict[tuple[str, str | None], str] = {}
    nodes: deque[tuple[Flow, ParentRef | None, ChildFailurePolicy]] = deque()
    nodes.append((flow, _above(flow, keys), "wait"))
    plain = CheckedOptions()
    while nodes:
        node, parent, policy = nodes.popleft()
        options = _child_options(node, policy) if drafts else node.options
        place = (node.queue, node.prefix)
        queue_key = queues.get(place)
        if queue_key is None:
            queue_key = queues[place] = keys.key(node.queue, node.prefix)
        made = draft(
            queue_key,
            node.name,
            node.data,
            options,
            CheckedOptions(node.defaults) if node.defaults else plain,
            now=now,
            said=say("job", node.settings, "Flow", now) + flow_said if node.settings else flow_said,
            parent=parent,
            has_children=bool(node.children),
            prefix=keys.other(node.prefix),
        )
        id = made.node.id
        if (queue_key, id) in taken:
            raise InvalidJob(f"two jobs of one flow have the id {id!r} in {node.queue!r}")
        taken.add((queue_key, id))
        drafts.append(made)
        if node.children:
            here = ParentRef(queue_key, id)
            nodes.extend((child, here, node.on_child_failure) for child in node.children)
    return drafts


def _child_options(node: Flow, policy: ChildFailurePolicy) -> JobOptions:
    """Its options, of which `on_failure` may come from its parent."""
    options: JobOptions = node.options
    if options.get("parent") is not None:
        raise InvalidJob(f"child {node.name!r} of a flow cannot name another parent")
    if policy == "wait" or options.get("on_failure"):
        return options
    return {**options, "on_failure": policy}


def _above(flow: Flow, keys: Keys) -> ParentRef | None:
    """The job that exists and shall wait for the root."""
    named = flow.options.get("parent")
    if named is None:
        return None
    ref = ref_of(named)
    return ParentRef(keys.key(ref.queue, ref.prefix), ref.id)
