"""Flows that are too large for one call: adding them in steps, and taking back broken ones."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from typing import Any, Final

import msgspec

from toril.connection.call import Call, Procedure, Read, Resend
from toril.protocol.adding import (
    LARGEST_FLOW,
    MOST_ADDED,
    Added,
    NewNode,
    add_nodes,
    check_nodes,
)
from toril.protocol.dependencies import DependencyPage, dependency_page
from toril.protocol.effects import REMOVED, Wants
from toril.protocol.keys import split_job_key
from toril.protocol.record import CallRecord
from toril.protocol.replies import hash_fields, text
from toril.protocol.trees import REMOVED_PER_CALL, removal

LEASE_MS: Final = 60_000
"""How long after its last step a large flow counts as left unfinished."""
_MOST_LINKS: Final = 2000
_MOST_LEAVES: Final = 150
_MOST_BROKEN: Final = 10
_PAGE: Final = 1000


def add_large_flow(
    nodes: Sequence[NewNode],
    *,
    clock: Callable[[], int],
    calls: Callable[[], AbstractContextManager[CallRecord]],
    wants: Wants = frozenset(),
) -> Procedure[tuple[Added, ...]]:
    """Add a flow of any size in steps; parents stand before their children.

    First all parents are written, with the keys of all their children, so that none can be
    released early; then the leaves. Until the last step `Q:toril:flows` of the root's queue lists
    the flow with a lease; when that runs out somebody takes the flow back (`take_back`). Other
    programs may see children that do not exist yet.

    Args:
        nodes: The root, and all below it.
        clock: Tells the time, in milliseconds since the epoch.
        calls: Gives the record of one call, as `LanePool.call` does.
        wants: The event hooks that somebody implements.

    Raises:
        ParentError: The root's parent does not exist, or a node exists already and has another
            living parent; nothing was written.
        ServerError: The flow was taken back, as a step came more than a minute after another.
    """
    root, now = nodes[0], clock()
    results: dict[str, Added] = {}
    for part in _parts(nodes, LARGEST_FLOW):
        yield check_nodes(part, root, now)
    for step, extra in _steps(nodes, root, clock):
        with calls() as record:
            added: tuple[Added, ...] = yield add_nodes(
                step,
                root.queue,
                now=now,
                record=record,
                wants=wants,
                flow_roots=(root,),
                **extra,
            )
        results |= {node.key: one for node, one in zip(step, added, strict=True)}
    return tuple(results[node.key] for node in nodes)


def _steps(
    nodes: Sequence[NewNode], root: NewNode, clock: Callable[[], int]
) -> Iterator[tuple[Sequence[NewNode], dict[str, Any]]]:
    def flow(**more: Any) -> dict[str, Any]:
        return {"root": root.id, "lease": clock() + LEASE_MS, "nodes": len(nodes), **more}

    parents = [node for node in nodes if node.is_parent]
    for number, part in enumerate(_parts(parents, MOST_ADDED)):
        yield part, {"flow": flow(first=number == 0)}
    links = [
        (f"{node.parent.queue_key}:{node.parent.id}", node.key)
        for node in nodes
        if node.parent is not None and not node.is_parent
    ]
    for linked in _parts(links, _MOST_LINKS):
        children: dict[str, list[str]] = {}
        for parent, child in linked:
            children.setdefault(parent, []).append(child)
        yield (), {"flow": flow(), "links": list(children.items())}
    leaves = [node for node in nodes if not node.is_parent]
    for part in _parts(leaves, _MOST_LEAVES):
        yield part, {"flow": flow()}
    yield (), {"flow": {"root": root.id}}


def broken_flows(queue: str, now: int) -> Read[tuple[str, ...]]:
    """The roots, by their ids, of some flows that were left unfinished."""
    command = ("ZRANGEBYSCORE", f"{queue}:toril:flows", "-inf", now, "LIMIT", 0, _MOST_BROKEN)
    return Read((command,), lambda replies: tuple(map(text, replies[0])))


def take_back(
    queue: str, root: str, prefix: str, *, now: int, wants: Wants = frozenset()
) -> Procedure[bool]:
    """Remove what was added of a flow that was left unfinished, as if it had not been begun.

    Jobs that existed before stay. True: it is done. False: it goes on, or jobs of it cannot be
    removed now, as workers run them or plugins keep them; it is tried again a minute later.

    Args:
        queue: The key of the root's queue.
        root: The root's id.
        prefix: What the names of all keys begin with.
        now: Milliseconds since the epoch.
        wants: The event hooks that somebody implements.
    """
    if not (yield _phase(queue, "claim", root=root, now=now, lease=now + LEASE_MS)):
        return False
    made, found = yield from _listed(queue, root)
    all_gone = True
    for keys in _parts(made, REMOVED_PER_CALL):
        parents: list[str | None] = yield _parents(keys)
        doomed = {parent: True for parent in parents if parent in made}
        targets = [split_job_key(key, prefix) for key in keys]
        while targets:
            codes, _ = yield removal(
                queue,
                targets,
                "flow",
                children=False,
                doomed=doomed,
                now=now,
                want_removed=REMOVED in wants,
            )
            all_gone &= all(code >= 0 for code in codes)
            targets = targets[len(codes) :]
    for parent in found:
        yield from _loosen(queue, parent, prefix, now)
    if all_gone:
        yield _phase(queue, "done", root=root)
    return all_gone


def _listed(queue: str, root: str) -> Procedure[tuple[dict[str, None], list[str]]]:
    """The keys of the jobs that the flow has made, and of the parents that it found."""
    made: dict[str, None] = {}
    found: list[str] = []
    cursor = "0"
    while True:
        cursor, fields = yield _listed_page(queue, root, cursor)
        made |= {field[1:]: None for field in fields if field.startswith("+")}
        found += [field[1:] for field in fields if field.startswith("=")]
        if cursor == "0":
            return made, found


def _listed_page(queue: str, root: str, cursor: str) -> Read[tuple[str, list[str]]]:
    def parse(replies: list[Any]) -> tuple[str, list[str]]:
        position, fields = replies[0]
        return text(position), [text(name) for name in hash_fields(fields)]

    command = ("HSCAN", f"{queue}:toril:flows:{root}", cursor, "COUNT", _PAGE)
    return Read((command,), parse)


def _parents(keys: Sequence[str]) -> Read[list[str | None]]:
    """The keys of the parents of jobs."""
    commands = tuple(("HGET", key, "parentKey") for key in keys)
    return Read(commands, lambda replies: [raw and text(raw) for raw in replies])


def _loosen(queue: str, parent: str, prefix: str, now: int) -> Procedure[None]:
    """Let a parent that was there before no longer wait for children that do not exist."""
    cursor: str | None = "0"
    while cursor is not None:
        page: DependencyPage = yield dependency_page(
            *split_job_key(parent, prefix), "unprocessed", cursor
        )
        yield _phase(queue, "loosen", parent=parent, children=list(page.children), now=now)
        cursor = page.cursor


def _phase(queue: str, phase: str, **request: Any) -> Call[bool]:
    arguments = (msgspec.msgpack.encode({"phase": phase, **request}),)
    return Call("take_back", (queue,), arguments, bool, Resend.ALWAYS)


def _parts(items: Any, size: int) -> Iterator[Any]:
    row = list(items)
    for start in range(0, len(row), size):
        yield row[start : start + size]
