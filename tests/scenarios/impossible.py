"""What is said and cannot be had when a worker of BullMQ finishes the job.

The same rows stand, in the same words, in the documentation ("Rows that are impossible").
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True, slots=True)
class Impossible:
    """A row: what is said, who finishes which job, what happens instead, and why."""

    said: str
    finished_by: str
    happens: str
    why: str


STRICTER: Final = Impossible(
    "queue, worker, application: keep it",
    "a worker of BullMQ that was given a stricter value",
    "it goes by the foreign worker's value",
    "the foreign script removes it in the step that finishes it",
)
OTHERS: Final = Impossible(
    "anything that keeps it longer",
    "*another* job, by a worker of BullMQ; that job, or that worker, has a count or an age",
    "it goes with the others beyond that count or age",
    "BullMQ applies the finishing job's value to all finished jobs of the queue and outcome",
)
RELEASED: Final = Impossible(
    "job, flow: nothing; for a failed child without a policy",
    "a worker of BullMQ",
    "it goes, and its parent runs as if nothing had failed",
    "BullMQ takes a job that it removes off its parent",
)
RELEASED_BY_OTHERS: Final = Impossible(
    "anything that keeps a failed child without a policy",
    "*another* job of the child's queue, by a worker of BullMQ, with a count or an age",
    "the child goes, and its parent runs as if nothing had failed",
    "both of the reasons before",
)
STRATEGY: Final = Impossible(
    "a strategy (`toril_plan_retention`): keep it",
    "a worker of BullMQ, and the job's own value, or that worker's, is stricter",
    "it goes by that value",
    "nobody asks the strategy before the job is gone",
)
UNTOLD: Final = Impossible(
    "anything by which a worker of BullMQ removes it",
    "that worker",
    "no event, no hook and no rule tells of the removal",
    "BullMQ removes silently, and what is gone cannot be found by a sweep",
)
HELD: Final = Impossible(
    "held; job, flow: nothing",
    "a worker of BullMQ",
    "it goes",
    "the foreign script removes it in the step that finishes it, and knows of no hold",
)
RUN: Final = Impossible(
    'failed: anything; for a parent whose child failed with `on_failure="fail"`',
    "a worker of BullMQ before 5.49.2 on the parent's queue",
    "the parent runs, and what is said about its completion counts",
    "BullMQ before 5.49.2 does not know that somebody else has decided that a job must fail",
)
STRANDED: Final = Impossible(
    'failed: anything; for a parent whose child failed with `on_failure="fail"`',
    "nobody, as no worker serves its queue, and a worker of BullMQ removed the child",
    "the parent waits until a worker serves its queue",
    "nothing is left of the child by which a rescue could find the parent",
)

ROWS: Final = (
    STRICTER,
    OTHERS,
    RELEASED,
    RELEASED_BY_OTHERS,
    STRATEGY,
    HELD,
    UNTOLD,
    RUN,
    STRANDED,
)
