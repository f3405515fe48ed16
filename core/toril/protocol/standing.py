"""What stands around a job: when it is due, who holds it, what its queue is doing."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from toril.connection.call import Read


@dataclass(frozen=True, slots=True)
class Standing:
    """What explains where a job is.

    `due`: when a delayed job is due, in milliseconds since the epoch. `locked_for`: milliseconds
    for which a worker still holds it. `children_open`, `children_failed`: how many children keep it
    waiting, and how many fail it.
    """

    due: int | None
    locked_for: int | None
    paused: bool
    children_open: int
    children_failed: int


def standing(queue: str, id: str) -> Read[Standing]:
    """What stands around the job `id` of the queue with the key `queue`."""
    key = f"{queue}:{id}"

    def parse(replies: list[Any]) -> Standing:
        score, lock, paused, open_children, failed_children = replies
        return Standing(
            due=None if score is None else int(float(score)) // 4096,
            locked_for=lock if lock >= 0 else None,
            paused=bool(paused),
            children_open=open_children,
            children_failed=failed_children,
        )

    return Read(
        (
            ("ZSCORE", f"{queue}:delayed", id),
            ("PTTL", f"{key}:lock"),
            ("HEXISTS", f"{queue}:meta", "paused"),
            ("SCARD", f"{key}:dependencies"),
            ("ZCARD", f"{key}:unsuccessful"),
        ),
        parse,
    )
