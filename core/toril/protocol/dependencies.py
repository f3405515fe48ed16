"""Looking at the children of a job. Nothing here writes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

from toril.connection.call import Procedure, Read
from toril.protocol.replies import hash_fields, json_or_text, text
from toril.types import Json

DependencyKind = Literal["processed", "ignored", "unprocessed", "failed"]
"""`processed`: completed; `ignored`: failed without failing the parent; `unprocessed`: not ended
yet, or failed without any policy; `failed`: failed, and so fails the parent."""

DEPENDENCY_KINDS: tuple[DependencyKind, ...] = ("unprocessed", "processed", "ignored", "failed")
"""In the order in which they are to be read: a child that ends meanwhile is found where it goes."""

# Where each kind is, how it is walked, and how it is counted.
_WHERE: Final[Mapping[DependencyKind, tuple[str, str, str]]] = {
    "processed": ("processed", "HSCAN", "HLEN"),
    "ignored": ("failed", "HSCAN", "HLEN"),
    "unprocessed": ("dependencies", "SSCAN", "SCARD"),
    "failed": ("unsuccessful", "ZSCAN", "ZCARD"),
}


@dataclass(frozen=True, slots=True)
class DependencyPage:
    """Some children of one kind.

    `children`: key of the child (`bull:steps:c1`) → its result (processed), its reason (ignored)
    or None. `cursor` goes on behind them; None at the end. A child may come twice.
    """

    children: Mapping[str, Json]
    cursor: str | None


@dataclass(frozen=True, slots=True)
class Dependencies:
    """All children of a job by what became of them, under their keys (`bull:steps:c1`)."""

    processed: Mapping[str, Json]
    """Results of the children that completed."""
    ignored: Mapping[str, str]
    """Reasons of the children that failed without failing the parent."""
    unprocessed: frozenset[str]
    """Children that have not ended, or failed without any policy."""
    failed: frozenset[str]
    """Children whose failure fails the parent."""


def dependency_counts(queue: str, id: str) -> Read[dict[DependencyKind, int]]:
    """How many children of each kind the job has."""
    counted = counts_of((f"{queue}:{id}",))
    return Read(counted.commands, lambda replies: counted.parse(replies)[0])


def counts_of(keys: Sequence[str]) -> Read[list[dict[DependencyKind, int]]]:
    """How many children of each kind these jobs have, given by their keys."""
    commands = tuple(
        (count, f"{key}:{suffix}")
        for key in keys
        for suffix, _, count in (_WHERE[kind] for kind in DEPENDENCY_KINDS)
    )

    def parse(replies: list[Any]) -> list[dict[DependencyKind, int]]:
        sizes = iter(replies)
        return [{kind: next(sizes) for kind in DEPENDENCY_KINDS} for _ in keys]

    return Read(commands, parse)


def parents_among(keys: Sequence[str]) -> Read[list[str]]:
    """Which of these jobs, given by their keys, have children."""
    counted = counts_of(keys)

    def parse(replies: list[Any]) -> list[str]:
        sizes = counted.parse(replies)
        return [key for key, one in zip(keys, sizes, strict=True) if any(one.values())]

    return Read(counted.commands, parse)


def dependency_page(
    queue: str, id: str, kind: DependencyKind, cursor: str = "0", count: int = 200
) -> Read[DependencyPage]:
    """About `count` children of one kind, from `cursor` on (`0`: the start)."""
    suffix, scan, _ = _WHERE[kind]

    def parse(replies: list[Any]) -> DependencyPage:
        position, found = replies[0]
        children: dict[str, Json]
        if kind == "processed":
            children = {text(key): json_or_text(raw) for key, raw in hash_fields(found).items()}
        elif kind == "ignored":
            children = {text(key): text(raw) for key, raw in hash_fields(found).items()}
        else:
            keys = found if kind == "unprocessed" else found[::2]
            children = dict.fromkeys(map(text, keys))
        following = text(position)
        return DependencyPage(children, None if following == "0" else following)

    return Read(((scan, f"{queue}:{id}:{suffix}", cursor, "COUNT", count),), parse)


def failed_among(children: Iterable[str]) -> Read[tuple[str, ...]]:
    """Which of these children, given by their keys, are in the state `failed`."""
    keys = tuple(children)

    def parse(replies: list[Any]) -> tuple[str, ...]:
        return tuple(key for key, score in zip(keys, replies, strict=True) if score is not None)

    split = (key.rpartition(":") for key in keys)
    return Read(tuple(("ZSCORE", f"{queue}:failed", child) for queue, _, child in split), parse)


def dependencies(queue: str, id: str) -> Procedure[Dependencies]:
    """All children of the job, read in pages.

    This is not one moment's picture: a child that ends meanwhile is given as one that has ended.
    """
    found: dict[DependencyKind, dict[str, Json]] = {}
    for kind in DEPENDENCY_KINDS:
        children = found[kind] = {}
        cursor: str | None = "0"
        while cursor is not None:
            page: DependencyPage = yield dependency_page(queue, id, kind, cursor)
            children.update(page.children)
            cursor = page.cursor
    ended = found["processed"].keys() | found["ignored"].keys() | found["failed"].keys()
    return Dependencies(
        processed=found["processed"],
        ignored={key: str(reason) for key, reason in found["ignored"].items()},
        unprocessed=frozenset(found["unprocessed"].keys() - ended),
        failed=frozenset(found["failed"]),
    )
