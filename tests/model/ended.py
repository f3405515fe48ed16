"""Jobs that have ended, and what is left of those that are gone, for the model of what is kept."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from dataclasses import dataclass, field
from typing import Final, Literal, TypeAlias

from toril.plugins import Outcome
from toril_plugins import Keep, Retention

OwnLevel = Literal["job", "flow", "template"]
LiveLevel = Literal["queue", "worker", "application"]
Tier = Literal["logs", "data"]
Answers: TypeAlias = Mapping[tuple[Outcome, str], Keep]
"""What a strategy says, by outcome and name."""
OWN_LEVELS: Final[tuple[OwnLevel, ...]] = ("job", "flow", "template")
LIVE_LEVELS: Final[tuple[LiveLevel, ...]] = ("queue", "worker", "application")
OUTCOMES: Final[tuple[Outcome, ...]] = ("completed", "failed")
TIERS: Final[tuple[Tier, ...]] = ("logs", "data")


@dataclass(slots=True)
class Ended:
    """A job that has ended.

    `lost`: tiers that are gone. `known`: Toril ended it, or a sweep has seen it; `number`: how many
    of its outcome had ended by Toril then. `parked`: a sweep asks about it, from then on (ms).
    `away`: it is held, and out of everybody's reach. `over`: it goes as soon as anything may go.
    `answer`: what a strategy said of it when it was asked last.
    """

    id: str
    outcome: Outcome
    name: str
    customer: str
    finished_on: int
    own: dict[OwnLevel, Retention] = field(default_factory=dict[OwnLevel, Retention])
    lost: frozenset[Tier] = frozenset()
    known: bool = False
    number: int = 0
    parked: int | None = None
    away: bool = False
    over: bool = False
    answer: Keep | None = None

    @property
    def said(self) -> Keep | None:
        """What a strategy said, or what was said for this job itself."""
        if self.answer is not None:
            return self.answer
        for level in OWN_LEVELS:
            value = self.own.get(level)
            keep = None if value is None else value.of(self.outcome)
            if keep is not None:
                return keep
        return None

    @property
    def is_own(self) -> bool:
        """Whether it is known not to follow the live rule."""
        return self.known and self.said is not None and self.parked is None and not self.away

    @property
    def is_live(self) -> bool:
        """Whether it counts among those of the live rule."""
        return not (self.is_own or self.parked is not None or self.away)

    def is_aged(self, keep: Keep, now: int) -> bool:
        """Whether its age has come."""
        return keep.age_ms is not None and now - self.finished_on >= keep.age_ms

    def bucket(self, keep: Keep) -> Hashable:
        """With whom it is counted together."""
        customer = None if "data" in self.lost else self.customer
        return {"name": self.name, "data.customer": customer}.get(keep.key or "")


@dataclass(frozen=True, slots=True)
class Tomb:
    """What is left of a job that went at `since`, until `until` (ms): a tombstone, or its id."""

    since: int
    until: int

    @property
    def life(self) -> int:
        return self.until - self.since
