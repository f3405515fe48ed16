"""The same load on 1, 2 and 3 shards of a Redis Cluster: who does what, and what a job costs.

    python -m tests.benchmarks.cluster --jobs 24000 --queues 12 48 --shards 1 2 3 --output FOLDER

Each size is a cluster of its own on loopback. Queues have a hash tag each (`{q1}`, …); one process
adds the jobs, as many to each, and works them off, a worker per queue. What is to be seen on a
machine with few processors is not a speed-up, but what a speed-up rests on: that the jobs spread
over the shards as the slots say, that no call goes to a wrong shard or to several, and that a job
costs each shard as much as it costs a single one, however many shards, queues and workers there
are. Each server's processor time is its own (`INFO cpu`), so that servers may share a processor.
Prints a Markdown table; with --output it writes `cluster.json` and `cluster.md`.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tests.benchmarks.output import write
from tests.support.server import Server
from tests.support.topology import Cluster, cluster
from toril import ActiveJob, App, NewJob

PAYLOAD = {"to": "ada@example.org", "text": "x" * 64}
NOT_THE_JOBS = ("info", "config", "client", "cluster", "ping", "hello", "auth")
"""Commands of whoever looks on, not of the jobs."""


@dataclass(frozen=True)
class Counted:
    """What a server has done so far."""

    cpu_seconds: float
    calls: int
    """Scripts that were called."""
    commands: int
    """Commands that were carried out, within scripts and outside."""
    redirects: int

    @classmethod
    def of(cls, server: Server) -> Counted:
        with server.client() as client:
            cpu: Any = client.info("cpu")
            stats: Mapping[str, Any] = client.info("commandstats")
            errors: Mapping[str, Any] = client.info("errorstats")
        made = {
            name.removeprefix("cmdstat_"): int(each["calls"])
            for name, each in stats.items()
            if name.removeprefix("cmdstat_").partition("|")[0] not in NOT_THE_JOBS
        }
        return cls(
            float(cpu["used_cpu_user"]) + float(cpu["used_cpu_sys"]),
            made.get("evalsha", 0),
            sum(made.values()),
            sum(
                int(errors[name]["count"])
                for name in ("errorstat_MOVED", "errorstat_ASK", "errorstat_CROSSSLOT")
                if name in errors
            ),
        )

    def __sub__(self, before: Counted) -> Counted:
        return Counted(
            self.cpu_seconds - before.cpu_seconds,
            self.calls - before.calls,
            self.commands - before.commands,
            self.redirects - before.redirects,
        )


@dataclass(frozen=True)
class Shard:
    """What one shard of a cluster had to do."""

    queues: int
    """By the slots of their names."""
    jobs: int
    """That ended there."""
    done: Counted

    @property
    def cpu_us(self) -> float:
        """Processor time per job that was added and run there, in microseconds."""
        return self.done.cpu_seconds / max(1, self.jobs) * 1e6

    @property
    def commands(self) -> float:
        """Commands per job."""
        return self.done.commands / max(1, self.jobs)


@dataclass(frozen=True)
class Size:
    """A cluster of so many shards under the load."""

    shards: tuple[Shard, ...]
    seconds: float

    @property
    def jobs(self) -> int:
        return sum(shard.jobs for shard in self.shards)

    @property
    def cpu_us(self) -> float:
        return sum(shard.done.cpu_seconds for shard in self.shards) / self.jobs * 1e6

    @property
    def ceiling(self) -> float:
        """Jobs per second of this cluster if each shard had a processor of its own: the busiest
        shard sets it."""
        return self.jobs / max(shard.done.cpu_seconds for shard in self.shards)


async def noop(job: ActiveJob) -> None:
    """Do nothing."""


async def load(url: str, queues: Sequence[str], jobs: int, concurrency: int) -> None:
    """Add `jobs` to each of the queues, and work all of them off."""
    async with App(url) as app:
        for first in range(0, jobs, 1000):
            for name in queues:
                await app.queue(name).add_many(
                    NewJob("send", PAYLOAD) for _ in range(first, min(jobs, first + 1000))
                )
        workers = [app.worker(name, noop, concurrency=concurrency) for name in queues]
        await asyncio.gather(*(worker.run(burst=True) for worker in workers))


def names(count: int) -> list[str]:
    """Names of queues, each with a hash tag of its own."""
    return [f"{{q{number}}}" for number in range(1, count + 1)]


def finished(nodes: Cluster, queues: Sequence[str]) -> list[int]:
    """How many jobs have ended on each shard."""
    found: list[int] = []
    for number, node in enumerate(nodes.nodes):
        with node.client() as client:
            here = [name for name in queues if nodes.owner(name) == number]
            found.append(sum(client.zcard(f"bull:{name}:completed") for name in here))
    return found


def measure(size: int, queues: Sequence[str], jobs: int, concurrency: int) -> Size:
    """Add `jobs` to each queue on a new cluster of `size` shards, and run them; a tenth first."""
    with cluster(size) as nodes:
        if hasattr(os, "sched_setaffinity"):
            for node in nodes.nodes:
                os.sched_setaffinity(node.pid, {min(os.sched_getaffinity(0))})
        asyncio.run(load(nodes.url, queues, max(1, jobs // 10), concurrency))
        already = finished(nodes, queues)
        before = [Counted.of(node) for node in nodes.nodes]
        started = time.perf_counter()
        asyncio.run(load(nodes.url, queues, jobs, concurrency))
        seconds = time.perf_counter() - started
        after = [Counted.of(node) for node in nodes.nodes]
        shards = tuple(
            Shard(sum(nodes.owner(name) == number for name in queues), ended - warm, then - first)
            for number, (ended, warm, then, first) in enumerate(
                zip(finished(nodes, queues), already, after, before, strict=True)
            )
        )
    assert sum(shard.jobs for shard in shards) == jobs * len(queues)
    return Size(shards, seconds)


def table(sizes: Sequence[Size]) -> str:
    heads = "shards | queues | on each | jobs on each | commands a job | CPU µs a job | in all"
    lines = [f"| {heads} | redirects | jobs/s, a processor each |", "|---" * 9 + "|"]
    for size in sizes:
        each = size.shards
        lines.append(
            f"| {len(each)} | {sum(one.queues for one in each)} | "
            f"{', '.join(str(one.queues) for one in each)} | "
            f"{', '.join(f'{one.jobs:,}'.replace(',', ' ') for one in each)} | "
            f"{', '.join(f'{one.commands:.2f}' for one in each)} | "
            f"{', '.join(f'{one.cpu_us:.1f}' for one in each)} | {size.cpu_us:.1f} | "
            f"{sum(one.done.redirects for one in each)} | {size.ceiling:,.0f} |"
        )
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--jobs", type=int, default=24_000, help="jobs of all queues together")
    parser.add_argument("--queues", type=int, nargs="*", default=[12, 48])
    parser.add_argument("--concurrency", type=int, default=50, help="of each queue's worker")
    parser.add_argument("--shards", type=int, nargs="*", default=[1, 2, 3])
    parser.add_argument("--output", type=Path, help="folder for cluster.json and cluster.md")
    given = parser.parse_args(arguments)
    sizes = [
        measure(shards, names(queues), given.jobs // queues, given.concurrency)
        for queues in given.queues
        for shards in given.shards
    ]
    text = table(sizes)
    print(text)
    if given.output:
        write(given.output, "cluster", text, [asdict(size) for size in sizes])


if __name__ == "__main__":
    main()
