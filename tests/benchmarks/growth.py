"""How cost grows: what operations cost the server beside ever more jobs, and what a caller waits.

    python -m tests.benchmarks.growth [--only SUBJECT ...] [--most N] [--output FOLDER]

Each subject (waiting, kept, delayed, prioritised, active, children of a flow, bytes, queues,
workers, schedules) is made at several sizes on a server of its own, and the same operations are
carried out at each. Everything up to a million takes less than ten minutes; ten million waiting
jobs take 8 GB and are measured with `--only waiting --most 10000000`.

The server has one processor, this process another, where there are two; the server is not to wait
for whatever else the machine does, as far as that can be. Prints Markdown; with --output it also
writes `growth.json`, `growth.md`, and a plot of each subject.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import platform
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from tests.benchmarks.growth_measure import Point, Subject, points
from tests.benchmarks.growth_subjects import SUBJECTS
from tests.benchmarks.output import write

LONGEST_MS = 5.0
"""No script is to take longer."""


def _size(number: int) -> str:
    for unit, letter in ((1_000_000, "M"), (1000, "k")):
        if number >= unit and number % unit == 0:
            return f"{number // unit}{letter}"
    return f"{number:,}"


def _figure(number: float) -> str:
    return f"{number:.0f}" if number >= 100 else f"{number:.3g}"


def table(found: Sequence[Point]) -> str:
    """Per subject a row for each operation: server time for an item at every size, how much more it
    is at the largest than at the smallest, the scripts, the caller's wait."""
    lines: list[str] = []
    for subject in dict.fromkeys(point.subject for point in found):
        of_it = [point for point in found if point.subject == subject]
        sizes = sorted({point.size for point in of_it})
        lines += [f"### {subject[0].upper()}{subject[1:]}", ""]
        heads = ["operation", *(f"µs at {_size(size)}" for size in sizes)]
        heads += ["grows", "a script at the largest: p50, p99", "longest at any size", "client p99"]
        lines += [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
        for operation in dict.fromkeys(point.operation for point in of_it):
            row = {point.size: point for point in of_it if point.operation == operation}
            known = {size: point for size, point in row.items() if point.items}
            cells = [_figure(known[size].server_us) if size in known else "" for size in sizes]
            last = row[max(row)]
            most = max(row.values(), key=lambda point: point.longest_ms)
            times = known[max(known)].server_us / known[min(known)].server_us
            over = f" at {_size(most.size)}" if most.longest_ms > LONGEST_MS else ""
            cells += [
                f"{_figure(times)} times",
                f"{last.script_p50_ms:.2f}, {last.script_p99_ms:.2f} ms",
                f"{most.longest_ms:.2f} ms{over}",
                f"{_figure(last.client_p99_ms)} ms{'' if last.whole else ', broken off'}",
            ]
            lines.append(f"| {operation} | {' | '.join(cells)} |")
        lines.append("")
    return "\n".join(lines)


def plot(found: Sequence[Point], folder: Path) -> None:
    """A picture for each subject: server time, longest script and the caller's p99 by size."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    for subject in dict.fromkeys(point.subject for point in found):
        of_it = [point for point in found if point.subject == subject]
        figure, axes = plt.subplots(1, 3, figsize=(17, 6), layout="constrained")
        for operation in dict.fromkeys(point.operation for point in of_it):
            row = [(point.size, point) for point in of_it if point.operation == operation]
            sizes = [size for size, _ in row]
            for axis, values in zip(
                axes,
                (
                    [point.server_us for _, point in row],
                    [point.longest_ms for _, point in row],
                    [point.client_p99_ms for _, point in row],
                ),
                strict=True,
            ):
                axis.plot(sizes, values, marker="o", label=operation)
        axes[1].axhline(LONGEST_MS, color="black", linestyle=":")
        for axis, name in zip(
            axes, ("server µs an item", "longest script, ms", "client p99, ms"), strict=True
        ):
            axis.set(xscale="log", yscale="log", xlabel=subject, title=name)
        figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=4)
        figure.savefig(folder / f"growth-{subject.split()[0]}.svg")
        plt.close(figure)


async def _measure(subjects: Sequence[Subject], most: int) -> list[Point]:
    found: list[Point] = []
    for subject in subjects:
        sizes = [size for size in subject.sizes if size <= most] or [most]
        started = time.perf_counter()
        found += await points(subject, sizes)
        print(f"{subject.name}: {time.perf_counter() - started:.0f} s", file=sys.stderr)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure how cost grows.")
    parser.add_argument("--only", nargs="*", choices=SUBJECTS, help="these subjects, default: all")
    parser.add_argument("--most", type=int, default=1_048_576, help="no size above this one")
    parser.add_argument("--output", type=Path, help="folder for the table, JSON and plots")
    given = parser.parse_args()
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    subjects = [SUBJECTS[name] for name in given.only or SUBJECTS]
    found = asyncio.run(_measure(subjects, given.most))
    text = table(found)
    print(text)
    if given.output:
        record = {
            "date": time.strftime("%Y-%m-%d"),
            "machine": f"{platform.machine()}, {os.cpu_count()} processors",
            "python": platform.python_version(),
            "points": [asdict(point) for point in found],
        }
        write(given.output, "growth", text, record)
        plot(found, given.output)


if __name__ == "__main__":
    main()
