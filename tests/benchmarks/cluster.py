"""The same load on 1, 2 and 3 shards of a Redis Cluster: who does what, and what a job costs.

    python -m tests.benchmarks.cluster --jobs 6000 --queues 12 --shards 1 2 3 --output FOLDER

Each size is a cluster of its own on loopback. Queues have a hash tag each (`{q1}`, …); one process
adds to all of them and works them off, a worker per queue. What is to be seen on a machine with few
processors is not a speed-up, but what a speed-up rests on: that the jobs spread over the shards as
the slots say, that no call goes to a wrong shard or to several, and that a job costs each shard as
much as it costs a single one. Each server's processor time is its own (`INFO cpu`), so that servers
may share a processor. Prints a Markdown table; with --output it writes `cluster.json` and
`cluster.md`.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

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
        for _ in range(0, jobs, 1000):
            for name in queues:
                await app.queue(name).add_many(
                    NewJob("send", PAYLOAD) for _ in range(min(jobs, 1000))
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
    """Run the load on a new cluster of `size` shards, once to warm it and once to count."""
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
    lines = [
        "| shards | shard | queues | jobs | commands a job | CPU µs a job | redirects |",
        "|---|---|---|---|---|---|---|",
    ]
    for size in sizes:
        for number, shard in enumerate(size.shards, 1):
            lines.append(
                f"| {len(size.shards)} | {number} | {shard.queues} | {shard.jobs:,} | "
                f"{shard.commands:.2f} | {shard.cpu_us:.1f} | {shard.done.redirects} |"
            )
    lines += ["", "| shards | CPU µs a job, all | jobs/s with a processor each |", "|---|---|---|"]
    lines += [f"| {len(size.shards)} | {size.cpu_us:.1f} | {size.ceiling:,.0f} |" for size in sizes]
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--jobs", type=int, default=6000, help="jobs of each queue")
    parser.add_argument("--queues", type=int, default=12)
    parser.add_argument("--concurrency", type=int, default=50, help="of each queue's worker")
    parser.add_argument("--shards", type=int, nargs="*", default=[1, 2, 3])
    parser.add_argument("--output", type=Path, help="folder for cluster.json and cluster.md")
    given = parser.parse_args(arguments)
    queues = names(given.queues)
    sizes = [measure(size, queues, given.jobs, given.concurrency) for size in given.shards]
    text = table(sizes)
    print(text)
    if given.output:
        given.output.mkdir(parents=True, exist_ok=True)
        (given.output / "cluster.md").write_text(text + "\n")
        (given.output / "cluster.json").write_text(json.dumps([asdict(s) for s in sizes], indent=1))


if __name__ == "__main__":
    main()
