"""What an audit of a queue finds, and how plugins take part in one."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

Severity = Literal["problem", "note"]
"""A `problem` is something that must not be; a `note` is worth knowing, and may be as it is."""


@dataclass(frozen=True, slots=True)
class Repair:
    """How a finding is repaired.

    `text` says what is done, for people. `run` does it, and returns whether it did: it looks first
    whether things are still as they were found.
    """

    text: str
    run: Callable[[], Awaitable[bool]] = field(compare=False, repr=False)


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that an audit found in a queue.

    `kind` is a short name (`orphan-key`), by which programs tell findings apart; `key` the key it
    is about, `what` says it to a person. `count`: of how many jobs or keys it is true. Without a
    `repair` nobody but a person can know what would be right.
    """

    kind: str
    queue: str
    key: str
    what: str
    severity: Severity = "problem"
    count: int = 1
    repair: Repair | None = None


@dataclass(frozen=True, slots=True)
class Audit:
    """An audit of one queue under way, as plugins get it.

    `key` is what the queue's keys begin with. `now`: milliseconds since the epoch. `most`: so many
    jobs, or entries of an index, may be looked at. `keys`: the keys that plugins keep for the
    queue, by plugin, each what follows `Q:toril:<plugin>:` in it; at most `most` of each plugin,
    and 250,000.
    """

    queue: str
    key: str
    now: int
    most: int
    keys: Mapping[str, Sequence[str]]


@dataclass(frozen=True, slots=True)
class AuditReport:
    """What an audit of one queue found.

    `looked`: how many jobs, keys, … were looked at. `whole`: all there was; else some was left out
    as more than the limit was there.
    """

    queue: str
    findings: tuple[Finding, ...]
    looked: Mapping[str, int]
    whole: bool

    @property
    def problems(self) -> int:
        """How many things are not as they must be."""
        return sum(each.count for each in self.findings if each.severity == "problem")
