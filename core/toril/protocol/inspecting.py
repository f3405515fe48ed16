"""Looking at what a queue has done, and at who works on it. Nothing here writes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

from toril.connection.call import Read
from toril.types import Outcome

MINUTE_MS: Final = 60_000


@dataclass(frozen=True, slots=True)
class MinuteMetrics:
    """How many jobs of a queue ended in each minute, as BullMQ keeps it.

    Only workers with the option `metrics` (BullMQ: `metrics.maxDataPoints`) count.
    """

    outcome: Outcome
    total: int
    """All that have been counted."""
    last: int | None
    """When the first job of the newest minute was counted, in ms since the epoch; None: never."""
    newest: int
    """Jobs counted since that minute began. They are not in `points` yet: a minute gets its number
    when a job ends in a later one."""
    points: tuple[int, ...]
    """Jobs per minute, the newest minute first: those asked for."""
    minutes: int
    """For how many minutes there is a number."""


def minute_metrics(queue: str, outcome: Outcome, first: int, last: int) -> Read[MinuteMetrics]:
    """Jobs that ended with `outcome`, per minute, newest first.

    `first`, `last`: the places wanted, inclusive; 0 is the newest minute, -1 the oldest.
    """
    key = f"{queue}:metrics:{outcome}"

    def parse(replies: list[Any]) -> MinuteMetrics:
        total, last_at, counted = (_whole(value) for value in replies[0])
        return MinuteMetrics(
            outcome=outcome,
            total=total or 0,
            last=last_at,
            newest=(total or 0) - (counted or 0),
            points=tuple(_whole(value) or 0 for value in replies[1]),
            minutes=replies[2],
        )

    data = f"{key}:data"
    return Read(
        (
            ("HMGET", key, "count", "prevTS", "prevCount"),
            ("LRANGE", data, first, last),
            ("LLEN", data),
        ),
        parse,
    )


def _whole(value: bytes | None) -> int | None:
    return int(value) if value is not None and value.removeprefix(b"-").isdigit() else None
