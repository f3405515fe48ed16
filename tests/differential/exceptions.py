"""What may differ between Toril and BullMQ for Node after a step, each by name, with the reason.

There are three kinds: lines of a dump that are not compared (`LINES`), steps that a trace leaves
out because both would go on from different states (`known`, with a condition), and steps after
which Node's database is made what Toril's is (`known`, before the change). The table in
docs/differences.md names them all, and a test compares the two.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from typing import Final

from tests.interop.differences import DIFFERENCES, without_differences

KNOWN: Final = {
    "promoting all keeps priorities": (
        "Node moves delayed jobs with a priority among those without one; Toril keeps what was "
        "said, as both do when one job is promoted"
    ),
    "promoting all clears the delay": "as promoting one job does, in both",
    "retrying all keeps priorities": (
        "Node moves finished jobs with a priority among those without one; Toril keeps what was "
        "said, as both do when one job is retried"
    ),
    "obliterating takes parents that wait": (
        "Node leaves the jobs that wait for children behind, without a queue; Toril removes all"
    ),
    "obliterating frees parents elsewhere": (
        "a parent in another queue whose child goes with its queue waits for ever in Node; Toril "
        "takes the child out of it, and it runs if that was the last one"
    ),
    "draining tells which parents run": (
        "where draining removes the last child, both let the parent run; only Toril writes the "
        "event `waiting` that both write when the child is removed alone"
    ),
    "a schedule changed on a paused queue": (
        "Node leaves the run that waited under the old pace, and adds one; Toril replaces it, as "
        "both do while the queue is not paused"
    ),
    "the stalled check looks at what is active": (
        "Toril's worker makes its first check when it starts; Node's, when it is told to fetch by "
        "hand, makes none"
    ),
    "a worker that waits takes the marker": (
        "Toril's fetcher waits for jobs between two fetches; Node's looks when it is told to"
    ),
    "ending by hand with open children": (
        "Node refuses where children are open or have failed, and the job goes on; in Toril "
        "the attempt has failed with the same reason, as when a handler returns with open "
        "children, in both"
    ),
    "cleaning leaves children of living parents": (
        "Node removes a parent with the last of its children, or lets it run; in Toril cleaning "
        "never changes how a flow ends"
    ),
    "obliterating looks before it pauses": (
        "with a job that runs both refuse, but Node has paused the queue by then"
    ),
    "a parent whose failure is decided": (
        "Node hands it out to who fetches by hand, Toril fails it as a running worker of both "
        "does; the next job is picked up in the same call, which sees that others are due later "
        "and so does not say `drained`"
    ),
    "draining beside the run of a schedule": (
        "both keep a schedule's next run; where it waits among others, Node leaves the id of a "
        "removed job in the list instead of it, Toril the run"
    ),
}
"""By name: why they differ."""

LINES: Final[dict[str, tuple[str, str | None]]] = {
    "the stalled check looks at what is active": (r"^\w+:stalled ", None),
}
"""By name: a pattern of a line of a dump, and what is put there on both sides; None: no line."""

TAKEN: Final = frozenset({"toril producer", "toril worker"})


def documented() -> dict[str, str]:
    """All that differs from Node, by name: what the table in the documentation says."""
    ours = (one for one in DIFFERENCES if any(role.startswith("toril") for role in one.roles))
    return {one.name: one.reason for one in ours} | KNOWN


def known(name: str, condition: object = True) -> bool:
    """Whether a difference that `KNOWN` names would show now.

    Raises:
        KeyError: There is no such difference.
    """
    return KNOWN[name] != "" and bool(condition)


def apart_from_known(lines: list[str], watched: Collection[str]) -> list[str]:
    """The lines of a dump without what may differ. `watched`: queues of which jobs are fetched."""
    lines = without_differences(lines, "", TAKEN)
    if known("a worker that waits takes the marker"):
        markers = tuple(f"{queue}:marker " for queue in watched)
        lines = [line for line in lines if not line.startswith(markers)]
    for pattern, replacement in LINES.values():
        if replacement is None:
            lines = [line for line in lines if not re.search(pattern, line)]
        else:
            lines = [re.sub(pattern, replacement, line) for line in lines]
    return lines
