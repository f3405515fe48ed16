"""The state of a queue as text for a Prometheus server, under BullMQ's names.

The format is Prometheus's text exposition format, version 0.0.4.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Final

_LABEL: Final = re.compile(r"[a-zA-Z_][a-zA-Z0-9_]*")


def prometheus_text(
    queue: str, counts: Mapping[str, int], totals: Mapping[str, int], labels: Mapping[str, str]
) -> str:
    """The counts of jobs by state, and how many have ended in all.

    Raises `ValueError` for a label that Prometheus does not know as one, or that is taken.
    """
    for name in labels:
        if not _LABEL.fullmatch(name) or name in ("queue", "state"):
            raise ValueError(f"{name!r} cannot be a label: letters, digits and '_', not taken yet")

    def told(**own: str) -> str:
        return ", ".join(f'{name}="{_escaped(value)}"' for name, value in {**own, **labels}.items())

    lines = [
        "# HELP bullmq_job_count Number of jobs in the queue by state",
        "# TYPE bullmq_job_count gauge",
    ]
    for state, count in counts.items():
        lines.append(f"bullmq_job_count{{{told(queue=queue, state=state)}}} {count}")
    for outcome, total in totals.items():
        name = f"bullmq_job_{outcome}_total"
        lines += [
            f"# HELP {name} Total number of {outcome} jobs",
            f"# TYPE {name} counter",
            f"{name}{{{told(queue=queue)}}} {total}",
        ]
    return "\n".join(lines)


def _escaped(value: str) -> str:
    return str(value).replace("\\", r"\\").replace("\n", r"\n").replace('"', r"\"")


def joined(texts: Iterable[str]) -> str:
    """The texts of several queues as one: what is said of a name stands once, above its samples."""
    families: dict[str, list[str]] = {}
    for text in texts:
        for line in text.splitlines():
            name = line.split()[2] if line.startswith("#") else line.partition("{")[0]
            known = families.setdefault(name, [])
            if not (line.startswith("#") and line in known):
                known.append(line)
    return "\n".join(line for lines in families.values() for line in lines)
