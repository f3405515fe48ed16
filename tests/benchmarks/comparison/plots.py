"""Plots of a comparison, one file for each table of jobs a second, latencies and memory."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import matplotlib as mpl
from matplotlib.figure import Figure

from tests.benchmarks.comparison.record import Record
from tests.benchmarks.comparison.tables import BEST, value

mpl.rcParams["svg.hashsalt"] = "toril"  # the same figures give the same file


@dataclass(frozen=True)
class Plot:
    """Horizontal bars: a group for each case, a bar for each figure."""

    file: str
    title: str
    bars: Sequence[tuple[str, str, str]]
    """Label, subject, name of the figure."""
    logarithmic: bool = True


PLOTS: Final = (
    Plot(
        "drain",
        "drain: jobs a second of one process",
        [
            ("concurrency 1", "drain-1", "rate"),
            ("concurrency 10", "drain-10", "rate"),
            ("concurrency 100", "drain-100", "rate"),
        ],
    ),
    Plot(
        "add",
        "add: jobs a second of one process",
        [
            ("one at a time", "add-one", "rate"),
            ("100 callers", "add-callers", "rate"),
            ("8 threads", "add-threads", "rate"),
            ("in bulk", BEST, "add_rate"),
        ],
    ),
    Plot(
        "latency",
        "from add to handler, idle worker, in ms",
        [("p50", "latency", "p50"), ("p99", "latency", "p99")],
    ),
    Plot(
        "cost",
        "processor time of one job, µs",
        [
            ("server, add and process", BEST, "total_server_us"),
            ("worker", BEST, "cpu_us"),
            ("producer, in bulk", BEST, "add_cpu_us"),
        ],
    ),
    Plot(
        "memory",
        "bytes on the server",
        [("waiting job", "memory", "waiting_bytes"), ("kept job", "memory", "kept_bytes")],
        logarithmic=False,
    ),
    Plot(
        "worker",
        "memory of a worker, MiB",
        [("idle", "latency", "idle_mib"), ("1,000 jobs at once", "hold", "held_mib")],
        logarithmic=False,
    ),
    Plot(
        "beside",
        "Toril beside itself: jobs a second, concurrency 100",
        [("jobs a second", "beside", "rate")],
        logarithmic=False,
    ),
)


def plot(record: Record, folder: Path) -> None:
    """Write `<name>.svg` for each plot that has figures."""
    for each in PLOTS:
        figure = _draw(record, each)
        if figure is not None:
            figure.savefig(folder / f"{each.file}.svg", metadata={"Date": None})


def _draw(record: Record, plot: Plot) -> Figure | None:
    rows = {
        case: [value(record, subject, case, name) for _, subject, name in plot.bars]
        for case in record.cases
    }
    shown = [(case, cells) for case, cells in rows.items() if any(cells)]
    if not shown:
        return None
    figure = Figure(figsize=(8, 1.2 + 0.18 * len(shown) * (len(plot.bars) + 1)), layout="tight")
    axes = figure.add_subplot()
    width = 0.8 / len(plot.bars)
    for n, (label, _, _) in enumerate(plot.bars):
        places = [row + n * width for row in range(len(shown))]
        bars = axes.barh(places, [cells[n] or 0.0 for _, cells in shown], width, label=label)
        axes.bar_label(bars, [_text(cells[n]) for _, cells in shown], padding=2, fontsize=7)
    middle = width * (len(plot.bars) - 1) / 2
    titles = [record.cases[case]["title"] for case, _ in shown]
    axes.set_yticks([row + middle for row in range(len(shown))], titles)
    axes.invert_yaxis()
    axes.margins(x=0.15)
    if plot.logarithmic:
        axes.set_xscale("log")
    axes.set_title(plot.title)
    if len(plot.bars) > 1:
        axes.legend(fontsize=7)
    return figure


def _text(number: float | None) -> str:
    if number is None:
        return ""
    return f"{number:,.0f}" if number >= 10 else f"{number:.2f}"
