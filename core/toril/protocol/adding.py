"""Adding jobs: some of one queue, or a flow."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Any, Final, cast

import msgspec

from toril.connection.call import Call, Resend
from toril.errors import InvalidJob, JobError, ServerError
from toril.job_events import JobEvent, JobSaved
from toril.options import POLICY_OPTION
from toril.protocol.codec import encode_json, encode_opts
from toril.protocol.effects import REMOVED, SAVED, Effects, Wants, with_effects
from toril.protocol.keys import queue_name
from toril.protocol.record import CallRecord, pack_record, refuse_late, resend_for
from toril.protocol.refusals import refusal
from toril.protocol.replies import text
from toril.snapshots import JobSnapshot, ParentRef
from toril.types import Json, JsonObject

MOST_ADDED: Final = 200
"""Jobs of one queue in one call."""
LARGEST_FLOW: Final = 200
"""Nodes of a flow that is added in one step."""
_GARBLED: Final = -23
_TAKEN_BACK: Final = -26
_NOTHING_TO_TELL: Final = 1
_FIELDS: Final = ("name", "data", "opts", "timestamp", "delay", "priority", "parent", "deid")
_WINDOW_FLAGS: Final = {
    "extend": "extend",
    "replace": "replace",
    "keepLastIfActive": "keep",
    "reschedule": "reschedule",
}
_POLICY_FLAGS: Final = {
    "failParentOnFailure": "fpof",
    "continueParentOnFailure": "cpof",
    "ignoreDependencyOnFailure": "idof",
    "removeDependencyOnFailure": "rdof",
}


class NewNode(msgspec.Struct, frozen=True, gc=False):
    """A job to be written. A struct, as that is made in a third of a dataclass's time.

    `queue` is the key of its queue, `data` its payload as JSON text, `opts` its options under
    BullMQ's long names (among them delay, priority, lifo, and what its parent does if it fails),
    `timestamp` when it counts as created, in ms. `own` is the hash field `toril`. Nodes that share
    one `opts` object cost less.
    """

    queue: str
    id: str
    name: str
    data: str
    opts: Mapping[str, Json]
    timestamp: int
    parent: ParentRef | None = None
    is_parent: bool = False
    own: JsonObject | None = None
    counter: bool = False
    """Its id is the next of the queue's counter; `id` is ''."""
    given: bool = False
    """The caller gave the id."""
    prefix: str | None = None
    """That of its queue, if the snapshot shall have it."""

    def __post_init__(self) -> None:
        if "deduplication" in self.opts and (
            _window(self) is not None and (self.parent is not None or self.is_parent)
        ):
            raise InvalidJob(
                f"job {self.name!r}: a job with a parent or children cannot be deduplicated, as "
                "the flow would wait for a job that is not added"
            )

    @property
    def key(self) -> str:
        """The key of its hash."""
        return f"{self.queue}:{self.id}"

    def has_terms_of(self, other: NewNode) -> bool:
        """Whether both have the same `terms`."""
        return (
            self.opts is other.opts
            and self.parent is other.parent
            and self.queue == other.queue
            and self.is_parent == other.is_parent
            and self.given == other.given
            and self.counter == other.counter
        )

    def terms(self) -> dict[str, Any]:
        """What scripts get of it that other nodes may have in common with it.

        Its queue is that of the call (number 1), unless the caller says otherwise. Raises
        `InvalidJob` if an option cannot be stored.
        """
        terms = {"q": 1, **_terms_of_opts(self)}
        if self.parent is not None:
            terms["parent_key"] = f"{self.parent.queue_key}:{self.parent.id}"
            terms["parent"] = _parent_json(self, self.parent)
            terms["special"] = True
        if self.is_parent:
            terms["is_parent"] = terms["special"] = True
        if self.counter:
            terms["counter"] = True
        if self.given:
            terms["given"] = terms["special"] = True
        return terms

    def snapshot(self, id: str) -> JobSnapshot:
        """The job as it has been written under `id`."""
        return JobSnapshot(queue_name(self.queue), id, WrittenFields(self), self.prefix)


class WrittenFields(Mapping[bytes, bytes]):
    """The hash of a job that has just been written, made when somebody looks at it."""

    __slots__ = ("_fields", "_node")

    def __init__(self, node: NewNode) -> None:
        self._node = node
        self._fields: dict[bytes, bytes] | None = None

    def _made(self) -> dict[bytes, bytes]:
        if self._fields is None:
            node, terms = self._node, self._node.terms()
            stored = {
                "name": node.name,
                "data": node.data,
                "timestamp": node.timestamp,
                "delay": 0,
                "priority": 0,
                **terms,
            }
            self._fields = {
                field.encode(): str(stored[field]).encode() for field in _FIELDS if field in stored
            }
            if node.parent is not None:
                self._fields[b"parentKey"] = terms["parent_key"].encode()
            if node.own is not None:
                self._fields[b"toril"] = _own_json(node.own).encode()
        return self._fields

    def __getitem__(self, field: bytes) -> bytes:
        return self._made()[field]

    def __iter__(self) -> Iterator[bytes]:
        return iter(self._made())

    def __len__(self) -> int:
        return len(self._made())


_shared_opts: dict[int, tuple[Mapping[str, Json], dict[str, Any]]] = {}
_MOST_SHARED: Final = 256


def _terms_of_opts(node: NewNode) -> dict[str, Any]:
    """What scripts get of its options; remembered for options that cannot change."""
    opts = node.opts
    known = _shared_opts.get(id(opts))
    if known is not None and known[0] is opts:
        return known[1]
    terms: dict[str, Any] = {"opts": encode_opts(opts)}
    for option in ("delay", "priority", "lifo"):
        if stored := opts.get(option):
            terms[option], terms["special"] = stored, True
    window = _window(node)
    if window is not None:
        terms["window"], terms["deid"], terms["special"] = window, window["id"], True
    if isinstance(opts, MappingProxyType):
        if len(_shared_opts) >= _MOST_SHARED:
            _shared_opts.clear()
        _shared_opts[id(opts)] = opts, terms
    return terms


def _window(node: NewNode) -> dict[str, Any] | None:
    """Its deduplication as scripts get it."""
    stored = node.opts.get("deduplication")
    if stored is None:
        return None
    if not isinstance(stored, dict) or not stored.get("id"):
        raise InvalidJob(f"job {node.name!r}: not a deduplication: {stored!r}")
    flags = {name: True for option, name in _WINDOW_FLAGS.items() if stored.get(option) is True}
    return {"id": str(stored["id"]), "ttl": stored.get("ttl") or 0, **flags}


def _parent_json(node: NewNode, parent: ParentRef) -> str:
    named: JsonObject = {"id": parent.id, "queueKey": parent.queue_key}
    flags = [flag for option, flag in _POLICY_FLAGS.items() if node.opts.get(option)]
    if len(flags) > 1:
        raise InvalidJob(
            f"job {node.id!r}: only one of {', '.join(POLICY_OPTION.values())} can be said"
        )
    for flag in flags:
        named[flag] = True
    return encode_json(named, "parent")


def _own_json(own: JsonObject) -> str:
    return encode_json(own, "what plugins store with the job")


class Added(msgspec.Struct, frozen=True, gc=False):
    """What became of a node.

    `duplicate`: a job of that id existed; it was not touched, except that it may have become the
    child of the node's parent; or the job `id` owns the window of its deduplication. `error`: why
    it was not added; None if it was.
    """

    id: str
    duplicate: bool
    error: JobError | None = None


def add_jobs(
    nodes: Sequence[NewNode],
    *,
    now: int,
    record: CallRecord | None = None,
    wants: Wants = frozenset(),
) -> Call[Effects[tuple[Added, ...]]]:
    """Add at most 200 jobs of one queue, each for itself: one that is refused stops no other.

    Raises:
        InvalidJob: An option cannot be stored.
        ValueError: There are none, too many, or of several queues.
    """
    if not 0 < len(nodes) <= MOST_ADDED:
        raise ValueError(f"between 1 and {MOST_ADDED} jobs can be added in one call")
    if len(nodes) > 1 and len({node.queue for node in nodes}) > 1:
        raise ValueError("jobs of several queues are added by calls of their own")
    return add_nodes(nodes, nodes[0].queue, now=now, record=record, wants=wants)


def add_flows(
    flows: Sequence[Sequence[NewNode]],
    *,
    now: int,
    record: CallRecord | None = None,
    wants: Wants = frozenset(),
) -> Call[Effects[tuple[Added, ...]]]:
    """Add flows of at most 200 nodes together, each all or none; parents before their children.

    The roots are of one queue. After a flow that is refused none is added: its nodes, and those of
    the flows after it, have its `error`.

    Raises:
        InvalidJob: An option cannot be stored.
        ValueError: There are none or too many, or roots of several queues.

    The result raises `ParentError` if the first root's parent does not exist, or if a node of the
    first flow exists already and has another living parent; nothing was written then.
    """
    nodes = [node for flow in flows for node in flow]
    if not 0 < len(nodes) <= LARGEST_FLOW or not all(flows):
        raise ValueError(f"between 1 and {LARGEST_FLOW} nodes can be added in one call")
    roots = [flow[0] for flow in flows]
    if len({root.queue for root in roots}) > 1:
        raise ValueError("flows with roots of several queues are added by calls of their own")
    sizes = [len(flow) for flow in flows]
    return add_nodes(
        nodes, roots[0].queue, now=now, record=record, wants=wants, flow_roots=roots, whole=sizes
    )


def add_flow(
    nodes: Sequence[NewNode],
    *,
    now: int,
    record: CallRecord | None = None,
    wants: Wants = frozenset(),
) -> Call[Effects[tuple[Added, ...]]]:
    """Add a single flow; see `add_flows`."""
    return add_flows((nodes,), now=now, record=record, wants=wants)


def _request(
    nodes: Sequence[NewNode], queue: str, now: int, flow_roots: Sequence[NewNode] = ()
) -> tuple[tuple[str, ...], dict[str, Any]]:
    """The keys, and what the script is told. What neighbours have in common is said once.

    In flows a root is the neighbour of the root before it.
    """
    if len(nodes) == 1 and not flow_roots and nodes[0].queue == queue:
        terms = nodes[0].terms()
        request: dict[str, Any] = {"now": now}
        if terms.pop("special", False):
            request["special"] = True
        request["nodes"] = [_packed(nodes[0], terms)]
        return (queue,), request
    numbers = {queue: 1}
    common: list[dict[str, Any]] = []
    packed: list[dict[str, Any]] = []
    roots = {id(root) for root in flow_roots}
    last: dict[bool, tuple[NewNode, int]] = {}  # the last inner node, the last other one
    for node in nodes:
        inner = bool(roots) and id(node) not in roots
        before, number = last.get(inner, (None, 0))
        if before is None or not node.has_terms_of(before):
            common.append({**node.terms(), "q": numbers.setdefault(node.queue, len(numbers) + 1)})
            if inner:
                common[-1]["inner"] = common[-1]["special"] = True
            number = len(common)
        last[inner] = node, number
        packed.append(_packed(node, {"terms": number}))
    request = {"now": now, "nodes": packed, "terms": common}
    special = [terms for terms in common if terms.pop("special", False)]
    if special:
        request["special"] = True
    return tuple(numbers), request


def _packed(node: NewNode, terms: dict[str, Any]) -> dict[str, Any]:
    """The node as scripts get it: what no other node has, and its terms, or their number."""
    fields: dict[str, Any] = {
        "id": node.id,
        "name": node.name,
        "data": node.data,
        "timestamp": node.timestamp,
        **terms,
    }
    if node.own is not None:
        fields["toril"] = _own_json(node.own)
    return fields


def add_nodes(
    nodes: Sequence[NewNode],
    queue: str,
    *,
    now: int,
    record: CallRecord | None,
    wants: Wants,
    flow_roots: Sequence[NewNode] = (),
    **extra: Any,
) -> Call[Effects[tuple[Added, ...]]]:
    """Add nodes in one call. `extra`: what else the script is told, see there."""
    keys, request = _request(nodes, queue, now, flow_roots)
    if extra:
        request |= {**extra, "special": True}
    if REMOVED in wants:  # a job can take the place of another
        request["want_removed"] = True
    if record is not None:
        request["record"] = pack_record(record)

    def parse(reply: Any) -> Effects[tuple[Added, ...]]:
        refuse_late(reply)
        if reply == _TAKEN_BACK:
            raise ServerError(
                "the flow was taken back, as its last step was more than a minute ago; add it again"
            )
        results: Sequence[tuple[int, bytes, int, int]]
        written, results, told = (1, (), b"") if reply == _NOTHING_TO_TELL else reply
        added = [Added(node.id, duplicate=False) for node in nodes]
        for number, id, existed, code in results:
            node = nodes[number - 1]
            error = _error(node, code) if code else None
            if error is not None and not written:
                raise error
            added[number - 1] = Added(text(id), bool(existed), error)
        if "whole" in extra:
            _leave_out(added, extra["whole"])
        events: list[JobEvent] = []
        if SAVED in wants:
            events = [
                JobSaved(node.snapshot(one.id))
                for node, one in zip(nodes, added, strict=True)
                if one.error is None and not one.duplicate
            ]
        return with_effects(tuple(added), told, events)

    return Call(
        "add",
        keys,
        (msgspec.msgpack.encode(request),),
        parse,
        resend_for(record),
        tuple([node.id for node in nodes if node.id]),
    )


def check_nodes(nodes: Sequence[NewNode], root: NewNode, now: int) -> Call[None]:
    """Raises what stands against these nodes of a flow; writes nothing."""
    keys, request = _request(nodes, root.queue, now, (root,))
    request["check"] = True

    def parse(reply: Any) -> None:
        for number, _, _, code in cast("list[tuple[int, bytes, int, int]]", reply[1]):
            raise _error(nodes[number - 1], code)

    return Call("add", keys, (msgspec.msgpack.encode(request),), parse, Resend.ALWAYS)


def _leave_out(added: list[Added], sizes: Sequence[int]) -> None:
    """Note that the first flow that was refused was not added, nor any after it."""
    first = 0
    for size in sizes:
        errors = [one.error for one in added[first : first + size] if one.error is not None]
        if errors:
            added[first:] = [
                Added(one.id, duplicate=False, error=errors[0]) for one in added[first:]
            ]
            return
        first += size


def _error(node: NewNode, code: int) -> JobError:
    if code == _GARBLED:
        return JobError(
            f"job {node.id!r} was not added: a key of it or of its queue {node.queue!r} is garbled",
            queue=queue_name(node.queue),
            job_id=node.id,
        )
    return refusal(code, node.queue, node.id)
