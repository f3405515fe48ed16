"""Types that every layer shares."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal, TypeAlias

Json: TypeAlias = "bool | int | float | str | Sequence[Json] | Mapping[str, Json] | None"
"""A value that can be written as JSON text."""

JsonObject: TypeAlias = dict[str, Json]

Outcome = Literal["completed", "failed"]
"""How a job ended."""

State = Literal[
    "waiting",
    "active",
    "delayed",
    "prioritized",
    "waiting-children",
    "completed",
    "failed",
    "unknown",
]
"""Where a job is. The names are BullMQ's; `unknown` means: in no set of its queue."""

STATES: tuple[State, ...] = (
    "waiting",
    "active",
    "delayed",
    "prioritized",
    "waiting-children",
    "completed",
    "failed",
)
"""The states a job can be listed by, in the order in which tools show them."""

CLEANABLE: tuple[State, ...] = tuple(state for state in STATES if state != "waiting-children")
"""The states whose jobs can be cleaned: a parent that waits is not old, its children are."""

ChildFailurePolicy = Literal["wait", "fail", "ignore", "continue", "remove"]
"""What a parent does when a child fails for good.

- `wait`: the parent waits until the child is retried, unlinked or removed (BullMQ's default);
- `fail`: the parent fails too (`failParentOnFailure`);
- `continue`: the parent runs at once, even with other children open (`continueParentOnFailure`);
- `ignore`: the parent runs once the others are done and can read the failure
  (`ignoreDependencyOnFailure`);
- `remove`: the parent runs once the others are done, and the child leaves no trace in it
  (`removeDependencyOnFailure`).
"""

FinishCause = Literal["processor", "stalled", "child", "deferred", "operator", "foreign"]
"""Who ended an attempt: the handler; the stalled check; a failed child; somebody else, for a reason
of their own, which this worker carried out; a person or program; another library's worker."""

RemovalCause = Literal[
    "operator",
    "rule",
    "drain",
    "clean",
    "obliterate",
    "parent",
    "schedule",
    "replaced",
    "erase",
    "flow",
]
"""Why a job was removed. `parent`: it went along with its parent; `rule`: a plugin's rule;
`schedule`: it was the next run of a schedule that was replaced, paused or removed; `replaced`: by
the next job of its deduplication; `flow`: it was part of a large flow whose adding broke off;
`erase`: nothing of it is to be left, so nobody keeps what they are told of it."""
