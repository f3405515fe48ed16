"""Where two libraries may leave different traces, each with the reason. There are no others.

A difference is a change of the lines of a dump (see `tests.support.dump`) that makes both sides
equal. It applies only if a library of the named roles took part, and it applies to both dumps.
"""

from __future__ import annotations

import re
from dataclasses import dataclass


@dataclass(frozen=True)
class Difference:
    """One allowed difference.

    Args:
        name: What it is called in the documentation.
        reason: Why it is there.
        roles: The roles of which one must be taken (`python producer`, `toril worker`, …).
        pattern: What to look for in a line.
        replacement: What to put there; None drops the line.
        scenarios: Names of the scenarios that it is confined to; empty: all.
    """

    name: str
    reason: str
    roles: frozenset[str]
    pattern: str
    replacement: str | None = None
    scenarios: frozenset[str] = frozenset()

    def apply(self, lines: list[str]) -> list[str]:
        if self.replacement is None:
            return [line for line in lines if not re.search(self.pattern, line)]
        return [re.sub(self.pattern, self.replacement, line) for line in lines]


def roles(*names: str) -> frozenset[str]:
    return frozenset(names)


DIFFERENCES = [
    Difference(
        "the version in `meta`",
        "only Node writes its version when a queue is opened, also by a handler that adds a child",
        roles("python producer", "python worker", "toril producer", "toril worker"),
        r"^\S+:meta \.version =",
    ),
    Difference(
        "the counter of ids",
        "Toril makes ids itself and leaves the counter alone",
        roles("toril producer", "toril worker"),
        r"^\S+:id = \d+$",
    ),
    Difference(
        "one attempt",
        "Toril says one attempt where Node says none; both mean that there is no second",
        roles("toril producer", "toril worker"),
        r'"attempts": [01](?=[,}])',
        '"attempts": 1',
    ),
    Difference(
        "the length of the stream in `meta`",
        "only Node writes it when a queue is opened; both when a job is added",
        roles("python producer", "toril producer"),
        r"^\S+:meta \.opts\.maxLenEvents =",
    ),
    Difference(
        "Python's delays",
        "Python writes the delay into the options of every job",
        roles("python producer", "python worker"),
        r'"delay": 0, |, "delay": 0(?=[,}])',
        "",
    ),
    Difference(
        "Python's time of the call",
        "Python writes the time of the call into the jobs of a scheduler with an interval",
        roles("python producer", "python worker"),
        r'"prevMillis": "<time>", (?="repeat": {"count": \d+, "every")',
        "",
    ),
    Difference(
        "Python's `drained`",
        "Python finishes without fetching, so its finish does not learn of delayed jobs or limits, "
        "which would keep it from saying `drained`",
        roles("python worker"),
        r"^\S+:events drained$",
        scenarios=frozenset(
            {
                "bulk",
                "handler moves to delayed, seen in between",
                "flow",
                "continueParentOnFailure with an open child",
                "pause and resume",
                "worker's limiter",
                "global rate limit",
                "scheduler with an interval",
                "scheduler with deduplication",
                "scheduler with a pattern",
                "scheduler with a limit",
                "scheduler whose job fails and is retried",
            }
        ),
    ),
    Difference(
        "removals by rule are told",
        "Toril tells of each job that its own retention removes, and by which rule",
        roles("toril worker"),
        r"^\S+:events removed {\w+} prev=(completed|failed) rule=",
        scenarios=frozenset(
            {
                "job that is not kept",
                "newest jobs are kept",
                "children that are not kept",
                "metrics of a job that is not kept",
            }
        ),
    ),
    Difference(
        "an id without a job",
        "Toril drops an id without a job instead of running it with empty data",
        roles("toril worker"),
        r"{ghost}|^q:events drained$",
        scenarios=frozenset({"id without a job"}),
    ),
    Difference(
        "the id of a job that is not added",
        "Toril makes the ids of jobs itself, also of those that are then not added",
        roles("toril producer"),
        r"deduplicatedJobId={(\d+|[A-Za-z]\w{15})}",
        "deduplicatedJobId={new}",
    ),
    Difference(
        "promoting all keeps priorities",
        "promoting and retrying all, Toril keeps the priorities, as promoting or retrying one does",
        roles("toril producer"),
        r"^q:(wait {b}|prioritized {b} priority 2 number 1|pc = 1)$",
        scenarios=frozenset({"promote all", "retry all failed jobs"}),
    ),
    Difference(
        "promoting all clears the delay",
        "promoting all, Toril clears the delay, as promoting one does",
        roles("toril producer"),
        r"^(q:{[ab]} \.delay =) \d+$",
        r"\1 0",
        scenarios=frozenset({"promote all"}),
    ),
    Difference(
        "obliterating looks before it pauses",
        "Toril looks for running jobs before it pauses the queue to obliterate it",
        roles("toril producer"),
        r"^q:(events paused|meta \.paused = 1)$",
        scenarios=frozenset({"obliterate with active jobs"}),
    ),
]


#: What is not as it should be yet: scenario and role -> what is missing. Its tests have to fail.
MISSING: dict[tuple[str, str], str] = {}


def without_differences(lines: list[str], scenario: str, taken: frozenset[str]) -> list[str]:
    """The lines without what may differ when these roles are taken."""
    for difference in DIFFERENCES:
        if difference.roles & taken and (
            not difference.scenarios or scenario in difference.scenarios
        ):
            lines = difference.apply(lines)
    return lines
