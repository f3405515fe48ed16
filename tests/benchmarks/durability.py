"""What it costs a server to keep jobs safe: an append-only file, a replica.

    python -m tests.benchmarks.durability --jobs 10000 --runs 5 --output FOLDER

Each way has a primary of its own; they take turns. Costs are the primary's processor time per job
that is added and run (`INFO cpu`; writing for a replica and into the file is in it) and jobs per
second of one process, beside a server that keeps nothing. Prints a Markdown table; with --output it
writes `durability.json` and `durability.md`.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import statistics
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Final

from tests.benchmarks.cluster import Counted, load
from tests.benchmarks.output import write
from tests.support.server import Server
from tests.support.topology import is_replicated, wait_until

FILE: Final = {"appendonly": "yes"}
WAYS: Final[Mapping[str, tuple[Mapping[str, str], bool]]] = {
    "nothing": ({}, False),
    "appendfsync everysec": ({**FILE, "appendfsync": "everysec"}, False),
    "appendfsync always": ({**FILE, "appendfsync": "always"}, False),
    "one replica": ({}, True),
    "one replica, everysec": ({**FILE, "appendfsync": "everysec"}, True),
}


@dataclass(frozen=True)
class Cost:
    """Of a way to keep data safe."""

    cpu_us: float
    """Processor time of the primary per job that is added and run."""
    jobs_per_second: float


def start(stack: ExitStack, config: Mapping[str, str], *, replicated: bool) -> Server:
    """A primary, on the first processor, and its replica, on the last."""
    processors = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_setaffinity") else []
    primary = Server.start({**config, "repl-diskless-sync-delay": "0"})
    stack.callback(primary.stop)
    if processors:
        os.sched_setaffinity(primary.pid, {processors[0]})
    if replicated:
        replica = Server.start(config)
        stack.callback(replica.stop)
        if processors:
            os.sched_setaffinity(replica.pid, {processors[-1]})
        with replica.client() as client:
            client.replicaof("127.0.0.1", str(primary.port))
        wait_until(partial(is_replicated, primary), "the replication")
    return primary


def measure(jobs: int, runs: int) -> dict[str, Cost]:
    """Medians of runs that take turns."""
    seen: dict[str, list[Cost]] = {name: [] for name in WAYS}
    with ExitStack() as stack:
        servers = {
            name: start(stack, config, replicated=replicated)
            for name, (config, replicated) in WAYS.items()
        }
        for number in range(runs + 1):
            for name, server in servers.items():
                with server.client() as client:
                    client.flushall()
                before, started = Counted.of(server), time.perf_counter()
                asyncio.run(load(server.url, ("q",), jobs if number else 500, 100))
                seconds = time.perf_counter() - started
                spent = Counted.of(server) - before
                if number:  # the first one warms up
                    seen[name].append(Cost(spent.cpu_seconds / jobs * 1e6, jobs / seconds))
    return {
        name: Cost(
            statistics.median(each.cpu_us for each in some),
            statistics.median(each.jobs_per_second for each in some),
        )
        for name, some in seen.items()
    }


def table(costs: Mapping[str, Cost]) -> str:
    bare = costs["nothing"]
    lines = [
        "| kept safe by | CPU µs a job | times | jobs/s of one process | times |",
        "|---|---|---|---|---|",
    ]
    lines += [
        f"| {name} | {cost.cpu_us:.1f} | {cost.cpu_us / bare.cpu_us:.2f} | "
        f"{cost.jobs_per_second:,.0f} | {cost.jobs_per_second / bare.jobs_per_second:.2f} |"
        for name, cost in costs.items()
    ]
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--jobs", type=int, default=10_000)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--output", type=Path, help="folder for durability.json and durability.md")
    given = parser.parse_args(arguments)
    costs = measure(given.jobs, given.runs)
    text = table(costs)
    print(text)
    if given.output:
        stored = {name: asdict(cost) for name, cost in costs.items()}
        write(given.output, "durability", text, stored)


if __name__ == "__main__":
    main()
