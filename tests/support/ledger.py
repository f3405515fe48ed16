"""What really happened to jobs, written down outside of the server: a file per process, only ever
appended to, a line per event in one write, so that a killed process leaves whole lines.
"""

from __future__ import annotations

import os
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Entry:
    """`event` happened to the job `id` in that process, `at` seconds on the machine's clock."""

    process: int
    at: float
    event: str
    id: str


def ledger_path(folder: Path, process: int) -> Path:
    """The file of a process in a folder."""
    return folder / f"{process}.ledger"


class Ledger:
    """The file of this process in a folder."""

    def __init__(self, folder: Path) -> None:
        path = ledger_path(folder, os.getpid())
        self._file = os.open(path, os.O_APPEND | os.O_CREAT | os.O_WRONLY)

    def write(self, event: str, id: str) -> None:
        """Note that something happened to a job. Neither may contain blanks."""
        os.write(self._file, f"{time.monotonic()!r} {event} {id}\n".encode())

    def close(self) -> None:
        os.close(self._file)


def entries(folder: Path) -> list[Entry]:
    """What all processes noted, by time."""
    found: list[Entry] = []
    for path in folder.glob("*.ledger"):
        for line in path.read_text().splitlines():
            at, event, job_id = line.split(" ")
            found.append(Entry(int(path.stem), float(at), event, job_id))
    return sorted(found, key=lambda entry: entry.at)


def by_job(noted: Sequence[Entry]) -> Mapping[str, list[Entry]]:
    """The entries of each job, by time."""
    jobs: defaultdict[str, list[Entry]] = defaultdict(list)
    for entry in noted:
        jobs[entry.id].append(entry)
    return jobs


def count(noted: Sequence[Entry], *events: str) -> int:
    """How many of these events were noted."""
    return sum(entry.event in events for entry in noted)
