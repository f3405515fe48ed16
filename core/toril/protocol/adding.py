"""Adding jobs: some of one queue, or a flow."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Final

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
from toril.types import JsonObject

MOST_ADDED: Final = 200
"""Jobs of one queue in one call."""
LARGEST_FLOW: Final = 500
"""Nodes of a flow that is added in one step."""
_GARBLED: Final = -23
_TAKEN_BACK: Final = -26
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


@dataclass(frozen=True)
class NewNode:
    """A job to be written.

    `queue` is the key of its queue, `data` its payload as JSON text, `opts` its options under
    BullMQ's long names (among them delay, priority, lifo, and what its parent does if it fails),
    `timestamp` when it counts as created, in ms. `own` is the hash field `toril`.
    """

    queue: str
    id: str
    name: str
    data: str
    opts: JsonObject
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
        if self._window is not None and (self.parent is not None or self.is_parent):
            raise InvalidJob(
                f"job {self.name!r}: a job with a parent or children cannot be deduplicated, as "
                "the flow would wait for a job that is not added"
            )

    @property
    def _window(self) -> dict[str, Any] | None:
        """Its deduplication as scripts get it."""
        stored = self.opts.get("deduplication")
        if stored is None:
            return None
        if not isinstance(stored, dict) or not stored.get("id"):
            raise InvalidJob(f"job {self.name!r}: not a deduplication: {stored!r}")
        flags = {name: True for option, name in _WINDOW_FLAGS.items() if stored.get(option) is True}
        return {"id": str(stored["id"]), "ttl": stored.get("ttl") or 0, **flags}

    @property
    def key(self) -> str:
        """The key of its hash."""
        return f"{self.queue}:{self.id}"

    @cached_property
    def stored(self) -> dict[str, Any]:
        """The node as scripts get it, without the number of its queue."""
        opts = self.opts
        packed: dict[str, Any] = {
            "id": self.id,
            "name": self.name,
            "data": self.data,
            "opts": encode_opts(opts),
            "timestamp": self.timestamp,
            "delay": opts.get("delay") or 0,
            "priority": opts.get("priority") or 0,
        }
        if opts.get("lifo"):
            packed["lifo"] = True
        if self.parent is not None:
            packed["parent_key"] = f"{self.parent.queue_key}:{self.parent.id}"
            packed["parent"] = self._parent_json(self.parent)
        if self.own is not None:
            packed["toril"] = encode_json(self.own, "what plugins store with the job")
        window = self._window
        if window is not None:
            packed["window"], packed["deid"] = window, window["id"]
        if self.is_parent:
            packed["is_parent"] = True
        if self.counter:
            packed["counter"] = True
        if self.given:
            packed["given"] = True
        return packed

    def _parent_json(self, parent: ParentRef) -> str:
        named: JsonObject = {"id": parent.id, "queueKey": parent.queue_key}
        flags = [flag for option, flag in _POLICY_FLAGS.items() if self.opts.get(option)]
        if len(flags) > 1:
            raise InvalidJob(
                f"job {self.id!r}: only one of {', '.join(POLICY_OPTION.values())} can be said"
            )
        for flag in flags:
            named[flag] = True
        return encode_json(named, "parent")

    def snapshot(self, id: str) -> JobSnapshot:
        """The job as it has been written under `id`."""
        stored = self.stored
        fields = {
            field.encode(): str(stored[field]).encode() for field in _FIELDS if field in stored
        }
        if self.parent is not None:
            fields[b"parentKey"] = stored["parent_key"].encode()
        if self.own is not None:
            fields[b"toril"] = stored["toril"].encode()
        return JobSnapshot(queue_name(self.queue), id, fields, self.prefix)


@dataclass(frozen=True, slots=True)
class Added:
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
    if len({node.queue for node in nodes}) > 1:
        raise ValueError("jobs of several queues are added by calls of their own")
    return add_nodes(nodes, nodes[0].queue, now=now, record=record, wants=wants)


def add_flow(
    nodes: Sequence[NewNode],
    *,
    now: int,
    record: CallRecord | None = None,
    wants: Wants = frozenset(),
) -> Call[Effects[tuple[Added, ...]]]:
    """Add a flow of at most 500 nodes, all or none; parents stand before their children.

    Raises:
        InvalidJob: An option cannot be stored.
        ValueError: There are none or too many.

    The result raises `ParentError` if the root's parent does not exist, or if a node exists
    already and has another living parent; nothing was written then.
    """
    if not 0 < len(nodes) <= LARGEST_FLOW:
        raise ValueError(f"between 1 and {LARGEST_FLOW} nodes can be added in one call")
    root = nodes[0]
    return add_nodes(
        nodes, root.queue, now=now, record=record, wants=wants, flow_root=root, whole=True
    )


def _request(
    nodes: Sequence[NewNode], queue: str, now: int, flow_root: NewNode | None = None
) -> tuple[tuple[str, ...], dict[str, Any]]:
    numbers = {queue: 1}
    packed: list[dict[str, Any]] = []
    for node in nodes:
        number = numbers.setdefault(node.queue, len(numbers) + 1)
        packed.append({**node.stored, "q": number})
        if flow_root is not None and node is not flow_root:
            packed[-1]["inner"] = True
    return tuple(numbers), {"now": now, "nodes": packed}


def add_nodes(
    nodes: Sequence[NewNode],
    queue: str,
    *,
    now: int,
    record: CallRecord | None,
    wants: Wants,
    flow_root: NewNode | None = None,
    **extra: Any,
) -> Call[Effects[tuple[Added, ...]]]:
    """Add nodes in one call. `extra`: what else the script is told, see there."""
    keys, request = _request(nodes, queue, now, flow_root)
    request.update(extra)
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
        written, results, told = reply
        added = tuple(_added(node, *result) for node, result in zip(nodes, results, strict=True))
        if not written:
            raise next(one.error for one in added if one.error is not None)
        events: list[JobEvent] = []
        if SAVED in wants:
            events = [
                JobSaved(node.snapshot(one.id))
                for node, one in zip(nodes, added, strict=True)
                if one.error is None and not one.duplicate
            ]
        return with_effects(added, told, events)

    return Call(
        "add",
        keys,
        (msgspec.msgpack.encode(request),),
        parse,
        resend_for(record),
        tuple(node.id for node in nodes if node.id),
    )


def check_nodes(nodes: Sequence[NewNode], root: NewNode, now: int) -> Call[None]:
    """Raises what stands against these nodes of a flow; writes nothing."""
    keys, request = _request(nodes, root.queue, now, flow_root=root)
    request["check"] = True

    def parse(reply: Any) -> None:
        for node, result in zip(nodes, reply[1], strict=True):
            error = _added(node, *result).error
            if error is not None:
                raise error

    return Call("add", keys, (msgspec.msgpack.encode(request),), parse, Resend.ALWAYS)


def _added(node: NewNode, id: bytes, existed: int, code: int) -> Added:
    return Added(text(id), bool(existed), _error(node, code) if code else None)


def _error(node: NewNode, code: int) -> JobError:
    if code == _GARBLED:
        return JobError(
            f"job {node.id!r} was not added: a key of it or of its queue {node.queue!r} is garbled",
            queue=queue_name(node.queue),
            job_id=node.id,
        )
    return refusal(code, node.queue, node.id)
