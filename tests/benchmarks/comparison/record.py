"""What a comparison found, as it is stored."""

from __future__ import annotations

import json
import os
import platform
import statistics
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Self

from tests.benchmarks.comparison.libraries import Case
from tests.benchmarks.comparison.stage import RunError, Stage, warn
from tests.benchmarks.comparison.subjects import Scale, Subject


@dataclass
class Record:
    """The figures of all runs: `figures[subject][case][name]` has one value for each run."""

    date: str
    machine: str
    server: str
    scale: dict[str, Any]
    cases: dict[str, dict[str, str]]
    figures: dict[str, dict[str, dict[str, list[float]]]] = field(default_factory=dict)
    failures: list[str] = field(default_factory=list[str])

    @classmethod
    def new(cls, stage: Stage, cases: Sequence[Case], scale: Scale) -> Self:
        """An empty one, which tells who takes part."""
        machine = f"{platform.machine()}, {os.cpu_count()} processors"
        told = {
            case.name: {
                "title": case.title,
                "package": f"{case.library.package} {case.library.place().version}",
                "settings": case.settings,
            }
            for case in cases
        }
        python = f"{machine}, Python {platform.python_version()}"
        return cls(time.strftime("%Y-%m-%d"), python, stage.version, asdict(scale), told)

    @classmethod
    def read(cls, path: Path) -> Self:
        """One that was written."""
        return cls(**json.loads(path.read_text()))

    def write(self, path: Path) -> None:
        path.write_text(json.dumps(asdict(self), indent=1) + "\n")

    def note(self, subject: str, case: str, figures: dict[str, float]) -> None:
        """Add the figures of one run."""
        by_name = self.figures.setdefault(subject, {}).setdefault(case, {})
        for name, value in figures.items():
            by_name.setdefault(name, []).append(float(f"{value:.6g}"))

    def median(self, subject: str, case: str, name: str) -> float | None:
        """The median of the runs; None: this was not measured."""
        values = self.figures.get(subject, {}).get(case, {}).get(name)
        return statistics.median(values) if values else None


def compare(
    record: Record, stage: Stage, subject: Subject, cases: Sequence[Case], scale: Scale
) -> None:
    """Measure a subject; the cases take turns, and each time another one is first."""
    partakers = [case for case in cases if subject.name in case.paces]
    began = time.monotonic()
    for number in range(min(scale.runs, subject.most_runs or scale.runs)):
        first = number % len(partakers) if partakers else 0
        for case in (*partakers[first:], *partakers[:first]):
            stage.empty()
            try:
                record.note(subject.name, case.name, dict(subject.measure(stage, case, scale)))
            except RunError as error:
                record.failures.append(f"{subject.name}: {error}")
                warn(record.failures[-1])
    warn(f"{subject.title}: {len(partakers)} took {time.monotonic() - began:.0f} s")
