"""How many shards, workers, connections and bytes a load needs, from what was measured.

    python -m tests.benchmarks.capacity --jobs-per-second 10000 --handler-ms 50 --payload 1000 \
        --keep 10m --keep tombstone=1h --queues 40

The arithmetic of docs/capacity.md. What it rests on is measured by `tests.benchmarks.cluster`,
`.footprint` and `.durability`; with --figures it is read from the folder that they wrote, else it
is what docs/capacity.md shows.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import ceil
from pathlib import Path
from typing import Final

from toril.duration import milliseconds

PAYLOADS: Final = (100, 1000)
"""Bytes of data of the jobs that were measured."""
KINDS: Final = {
    "kept": "completed, kept by the queue's rule",
    "own": "completed, kept by a rule of its own",
    "tombstone": "gone, a tombstone left",
    "id": "gone, its id taken",
}
"""What `--keep` calls it, and how `footprint` calls it."""


@dataclass(frozen=True)
class Figures:
    """What was measured on one machine."""

    cpu_us: float
    """Processor time of a shard per job that is added and run."""
    process_jobs: float
    """Jobs per second that one worker process finishes when its handlers cost nothing: the drain
    of `tests.benchmarks.compare`."""
    job_bytes: Mapping[str, tuple[float, float]]
    """Bytes per job, with data of 100 and of 1,000 bytes."""
    event_stream: float
    """Bytes of the events of a queue."""
    safety: float = 1.0
    """How much more a job costs its primary with the file and the replica that are wanted."""
    worker_connections: int = 4
    producer_connections: int = 1

    def bytes(self, what: str, payload: int) -> float:
        """Bytes of a job with so many bytes of data, on the line through the two measured."""
        (small, large), (low, high) = self.job_bytes[what], PAYLOADS
        return max(0.0, small + (large - small) * (payload - low) / (high - low))

    @classmethod
    def read(cls, folder: Path, safety: str) -> Figures:
        """What the three benchmarks wrote into that folder."""
        (size, *_) = json.loads((folder / "cluster.json").read_text())
        spent = sum(shard["done"]["cpu_seconds"] for shard in size["shards"])
        jobs = sum(shard["jobs"] for shard in size["shards"])
        footprint = json.loads((folder / "footprint.json").read_text())
        ways = json.loads((folder / "durability.json").read_text())
        told = footprint["connections"]
        return cls(
            cpu_us=spent / jobs * 1e6,
            process_jobs=DOCUMENTED.process_jobs,
            job_bytes={
                what: (sizes[str(PAYLOADS[0])][0], sizes[str(PAYLOADS[1])][0])
                for what, sizes in footprint["bytes"].items()
            },
            event_stream=footprint["event_stream"],
            safety=ways[safety]["cpu_us"] / ways["nothing"]["cpu_us"],
            worker_connections=max(
                count for name, count in told.items() if name.startswith("a worker")
            ),
            producer_connections=told["a producer, one call after the other"],
        )


@dataclass(frozen=True)
class Need:
    """A load. Times in seconds."""

    jobs_per_second: float
    handler: float
    payload: int
    queues: int
    kept: Mapping[str, float] = field(default_factory=dict[str, float])
    """By what is kept, a key of `Figures.job_bytes`: for how long."""
    waiting: int = 1_000_000
    """Jobs that wait, at the most."""
    concurrency: int = 100
    producers: int = 10
    headroom: float = 0.5
    """The part of a processor, and of a server's memory, that is planned for."""
    memory: float = 16e9
    """Bytes of memory of a shard's machine."""


@dataclass(frozen=True)
class Plan:
    """What a load needs."""

    per_shard: float
    """Jobs per second that a shard carries, and so the most for one queue."""
    shards: int
    workers: int
    """Worker processes."""
    bytes: float
    """In all shards together."""
    connections: int
    """In all: of worker processes with a queue each, and of producers to every shard."""


def plan(need: Need, figures: Figures) -> Plan:
    """Compute what `need` needs. Raises `ValueError` if its queues are too few for its shards."""
    per_shard = need.headroom * 1e6 / (figures.cpu_us * figures.safety)
    used = need.waiting * figures.bytes("waiting", need.payload)
    for what, seconds in need.kept.items():
        used += need.jobs_per_second * seconds * figures.bytes(what, need.payload)
    used += need.queues * figures.event_stream
    shards = max(ceil(need.jobs_per_second / per_shard), ceil(used / (need.memory * need.headroom)))
    if shards > need.queues:
        raise ValueError(
            f"{shards} shards are needed, and a queue lies on one: {need.queues} queues are too "
            "few; split them by something in the data"
        )
    workers = max(
        ceil(need.jobs_per_second * need.handler / need.concurrency),
        ceil(need.jobs_per_second / (need.headroom * figures.process_jobs)),
    )
    connections = workers * figures.worker_connections
    connections += need.producers * shards * figures.producer_connections
    return Plan(per_shard, shards, workers, used, connections)


DOCUMENTED: Final = Figures(
    cpu_us=114.0,
    process_jobs=33_000.0,
    job_bytes={
        "waiting": (484, 1407),
        "completed, kept without a rule": (770, 1693),
        "completed, kept by the queue's rule": (772, 1692),
        "completed, kept by a rule of its own": (1185, 2111),
        "gone, a tombstone left": (210, 210),
        "gone, its id taken": (89, 89),
    },
    event_stream=610648.0,
    worker_connections=5,
    producer_connections=1,
)
"""The figures of docs/capacity.md."""


def keeping(text: str) -> tuple[str, float]:
    """`completed=7d` → what is kept, and for how many seconds."""
    what, _, time = text.rpartition("=")
    return KINDS[what or "kept"], milliseconds(time, "--keep") / 1000


def told(need: Need, found: Plan) -> str:
    """A plan in words."""
    gigabytes = found.bytes / 1e9
    return "\n".join(
        (
            f"a shard carries {found.per_shard:,.0f} jobs/s, and so does a queue at the most",
            f"shards           {found.shards}",
            f"memory           {gigabytes:.1f} GB, {gigabytes / found.shards:.1f} GB a shard",
            f"worker processes {found.workers}, concurrency {need.concurrency}",
            f"connections      {found.connections} in all",
        )
    )


def main(arguments: Sequence[str] | None = None) -> None:
    """Compute and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--jobs-per-second", type=float, required=True)
    parser.add_argument("--handler-ms", type=float, default=0.0, help="time of a run")
    parser.add_argument("--payload", type=int, default=100, help="bytes of a job's data")
    parser.add_argument("--queues", type=int, default=1, help="over which the jobs spread evenly")
    parser.add_argument(
        "--keep", action="append", default=[], metavar="WHAT=TIME", help=f"{', '.join(KINDS)}"
    )
    parser.add_argument("--waiting", type=int, default=1_000_000, help="jobs, at the most")
    parser.add_argument("--concurrency", type=int, default=100, help="of a worker process")
    parser.add_argument("--producers", type=int, default=10, help="processes")
    parser.add_argument("--headroom", type=float, default=0.5, help="part that is planned for")
    parser.add_argument("--memory-gb", type=float, default=16.0, help="of a shard's machine")
    parser.add_argument("--figures", type=Path, help="folder with what the benchmarks wrote")
    parser.add_argument("--safety", default="nothing", help="a line of durability.md")
    given = parser.parse_args(arguments)
    need = Need(
        given.jobs_per_second,
        given.handler_ms / 1000,
        given.payload,
        given.queues,
        dict(map(keeping, given.keep)),
        given.waiting,
        given.concurrency,
        given.producers,
        given.headroom,
        given.memory_gb * 1e9,
    )
    figures = Figures.read(given.figures, given.safety) if given.figures else DOCUMENTED
    print(told(need, plan(need, figures)))


if __name__ == "__main__":
    main()
