"""What became of a removal that somebody asked for."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from toril.errors import Reject

_NAMED: Final = 3


@dataclass(frozen=True, slots=True)
class KeptJob:
    """A job that a plugin kept although somebody wanted to remove it."""

    queue: str
    """The name of its queue."""
    id: str
    plugin: str
    reason: str

    def __str__(self) -> str:
        return f"{self.id}: {self.reason} ({self.plugin})"


class Removals(list[str]):
    """The ids of the jobs that went, and which ones plugins kept.

    `kept`: the jobs that were passed over, one entry per reason, at most `MOST_KEPT`.
    `kept_count`: how many jobs that were.
    """

    MOST_KEPT: Final = 1000

    def __init__(self) -> None:
        super().__init__()
        self.kept: tuple[KeptJob, ...] = ()
        self.kept_count = 0

    def pass_over(self, kept: Sequence[KeptJob]) -> None:
        """Add jobs that were kept."""
        self.kept_count += len({one.id for one in kept})
        self.kept = (*self.kept, *kept)[: self.MOST_KEPT]


@dataclass(frozen=True, slots=True)
class Erasure:
    """What there was to erase of a job, all of which is gone.

    `job`: it existed; `in_parent`: entries in the keys of its parent; `events`: entries of the
    event stream; `plugins`: what plugins kept of it, in their words.
    """

    job: bool
    in_parent: int
    events: int
    plugins: Mapping[str, str]


def rejection(what: str, kept: Iterable[KeptJob]) -> Reject:
    """The error that says why plugins keep these jobs. `what`: which job, or which queue."""
    found = tuple(dict.fromkeys(kept))
    named = [str(one) for one in found[:_NAMED]]
    if len(found) > _NAMED:
        named.append(f"and {len(found) - _NAMED} more")
    reject = Reject(f"{what} is not removed, as plugins keep jobs of it: {'; '.join(named)}")
    reject.plugin, reject.item = found[0].plugin, found[0].id
    reject.kept = found
    return reject
