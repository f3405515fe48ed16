"""Adds and drains of no-op jobs beside BullMQ for Node and Python, on one server, in one run.

    python -m tests.benchmarks.compare --jobs 20000 --runs 5 --output FOLDER

Each figure is the median of runs that alternate between the peers; each run is a process of its
own on an emptied server. Where the machine has two processors or more, the server has one and the
peers have another. Only the ratios carry over to other machines. Prints a Markdown table; with
--output it also writes `compare.json` and `compare.md`.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

from tests.support.node import install
from tests.support.server import Server

HERE = Path(__file__).parent
PEERS = HERE / "peers"
ROOT = HERE.parent.parent


@dataclass(frozen=True)
class Peer:
    """A library: the command that runs its part, and where."""

    name: str
    command: Sequence[str]
    folder: Path


@dataclass(frozen=True)
class Figure:
    """Jobs per second of the runs, and what the server spent on scripts in the median."""

    runs: tuple[float, ...]
    server_us: float

    @property
    def median(self) -> float:
        return statistics.median(self.runs)


def peers() -> list[Peer]:
    node = install()
    home = node.home
    package = json.loads((home / "node_modules" / "bullmq" / "package.json").read_text())
    return [
        Peer(f"toril {version('toril')}", [sys.executable, str(PEERS / "toril_peer.py")], ROOT),
        Peer(
            f"bullmq {package['version']} (Node)",
            [str(node.program), str(PEERS / "node_peer.mjs")],
            home,
        ),
        Peer(
            f"bullmq {version('bullmq')} (Python)",
            [sys.executable, str(PEERS / "bullmq_peer.py")],
            ROOT,
        ),
    ]


def pinned(processors: set[int]) -> Callable[[], None] | None:
    """What a child does first, so that it stays on these processors."""
    if not hasattr(os, "sched_setaffinity"):
        return None
    return lambda: os.sched_setaffinity(0, processors)


def server_seconds(server: Server) -> float:
    """Time the server has spent on scripts and transactions since the last reset."""
    with server.client() as client:
        stats: Mapping[str, Mapping[str, float]] = client.info("commandstats")
        names = ("cmdstat_evalsha", "cmdstat_eval", "cmdstat_exec", "cmdstat_bzpopmin")
        return sum(float(stats[name]["usec"]) for name in names if name in stats) / 1e6


def run(peer: Peer, server: Server, what: str, jobs: int, concurrency: int) -> tuple[float, float]:
    """Seconds that the peer took, and that the server spent."""
    with server.client() as client:
        client.config_resetstat()
    processors = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else [0]
    done = subprocess.run(
        [*peer.command, server.url, what, str(jobs), str(concurrency)],
        cwd=peer.folder,
        stdout=subprocess.PIPE,
        text=True,
        check=True,
        preexec_fn=pinned({processors[-1]}),
    )
    return float(json.loads(done.stdout)), server_seconds(server)


def measure(
    everyone: Sequence[Peer], server: Server, jobs: int, runs: int, concurrencies: Sequence[int]
) -> dict[str, dict[str, Figure]]:
    seconds: dict[str, dict[str, list[tuple[float, float]]]] = {}

    def note(what: str, peer: Peer, jobs: int, took: tuple[float, float]) -> None:
        per_job = (jobs / took[0], took[1] / jobs * 1e6)
        seconds.setdefault(what, {}).setdefault(peer.name, []).append(per_job)

    for number in range(runs):
        for concurrency in concurrencies:
            count = jobs if concurrency > 1 else max(1000, jobs // 5)
            first = number % len(everyone)
            for peer in (*everyone[first:], *everyone[:first]):
                with server.client() as client:
                    client.flushall()
                added = run(peer, server, "add", count, concurrency)
                if concurrency > 1:
                    note("bulk add", peer, count, added)
                drained = run(peer, server, "drain", count, concurrency)
                note(f"drain, concurrency {concurrency}", peer, count, drained)
        print(f"run {number + 1} of {runs} done", file=sys.stderr)
    return {
        what: {
            name: Figure(tuple(r for r, _ in each), statistics.median(s for _, s in each))
            for name, each in by_peer.items()
        }
        for what, by_peer in seconds.items()
    }


def table(figures: Mapping[str, Mapping[str, Figure]]) -> str:
    lines = [
        "| what | library | jobs/s, median | lowest to highest | server µs a job | Toril is |",
        "|---|---|---|---|---|---|",
    ]
    for what, by_peer in figures.items():
        ours = next(figure for name, figure in by_peer.items() if name.startswith("toril"))
        for name, figure in by_peer.items():
            ratio = "" if figure is ours else f"{ours.median / figure.median:.2f} times"
            lines.append(
                f"| {what} | {name} | {figure.median:,.0f} | {min(figure.runs):,.0f} to "
                f"{max(figure.runs):,.0f} | {figure.server_us:.1f} | {ratio} |"
            )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description="Compare adds and drains with BullMQ's.")
    parser.add_argument("--jobs", type=int, default=20_000, help="jobs a run")
    parser.add_argument("--runs", type=int, default=5, help="runs of each peer")
    parser.add_argument("--concurrency", type=int, nargs="*", default=[1, 10, 100])
    parser.add_argument("--output", type=Path, help="folder for compare.json and compare.md")
    given = parser.parse_args()
    everyone = peers()
    server = Server.start()
    try:
        if hasattr(os, "sched_setaffinity"):
            os.sched_setaffinity(server.pid, {min(os.sched_getaffinity(0))})
        figures = measure(everyone, server, given.jobs, given.runs, given.concurrency)
    finally:
        server.stop()
    text = table(figures)
    print(text)
    if given.output:
        given.output.mkdir(parents=True, exist_ok=True)
        (given.output / "compare.md").write_text(text + "\n")
        record = {
            "date": time.strftime("%Y-%m-%d"),
            "machine": f"{platform.machine()}, {os.cpu_count()} processors",
            "python": platform.python_version(),
            "jobs": given.jobs,
            "figures": {
                what: {name: [figure.runs, figure.server_us] for name, figure in each.items()}
                for what, each in figures.items()
            },
        }
        (given.output / "compare.json").write_text(json.dumps(record, indent=1))


if __name__ == "__main__":
    main()
