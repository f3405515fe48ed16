"""What jobs, workers and producers take of a server: bytes and connections.

    python -m tests.benchmarks.footprint --jobs 20000 --output FOLDER

Memory is what the server says of all keys (`MEMORY USAGE`), per job, by what is kept of it.
Connections are counted with `CLIENT LIST` while a worker and a producer work. Neither depends on
the machine. Prints Markdown tables; with --output it writes `footprint.json` and `footprint.md`.
"""

from __future__ import annotations

import argparse
import asyncio
import tempfile
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import redis

from tests.benchmarks.output import write
from tests.support.server import Server
from toril import ActiveJob, App, NewJob, Setting
from toril.plugins import ManualClock
from toril_plugins import IdWindow, Keep, Retention

EVENTS: Final = 10_000
"""Entries of an event stream, about."""
AGES: Final = Retention(completed="1d")
NOTHING: Final = Retention(completed=Keep.nothing())
STONES: Final = Retention(completed=Keep(age="1h", tombstone="30d"))
OWN: Final = Retention(completed="7d")


async def noop(job: ActiveJob) -> None:
    """Do nothing."""


@dataclass
class Bench:
    """An empty server, and an App whose clock is moved by hand."""

    client: redis.Redis
    app: App
    clock: ManualClock
    jobs: int
    payload: int
    archive: Path

    def used(self) -> int:
        """Bytes of all keys, without the event stream."""
        pipe = self.client.pipeline(transaction=False)
        for key in self.client.scan_iter("bull:q:*", count=1000):
            if key != "bull:q:events":
                pipe.memory_usage(key, samples=0)
        return sum(size or 0 for size in pipe.execute())

    async def add(self, *said: Setting) -> None:
        data = {"text": "x" * (self.payload - len('{"text":""}'))}
        queue = self.app.queue("q")
        for first in range(0, self.jobs, 1000):
            many = range(first, min(self.jobs, first + 1000))
            await queue.add_many(NewJob("send", data, *said) for _ in many)

    async def run(self) -> None:
        await self.app.worker("q", noop, concurrency=100).run(burst=True)

    async def later(self, time: str) -> None:
        self.clock.advance(time)
        assert await self.app.run_services("q")


async def waiting(bench: Bench) -> None:
    await bench.add()


async def kept(bench: Bench) -> None:
    await bench.add()
    await bench.run()


async def kept_by_rule(bench: Bench) -> None:
    await bench.app.queue("q").set(AGES)
    await kept(bench)


async def kept_by_own(bench: Bench) -> None:
    await bench.add(OWN)
    await bench.run()


async def tombstones(bench: Bench) -> None:
    await bench.app.queue("q").set(STONES)
    await kept(bench)
    await bench.later("2h")


async def taken_ids(bench: Bench) -> None:
    await bench.app.queue("q").set(IdWindow("30d"))
    await bench.app.queue("q").set(NOTHING)
    await kept(bench)


async def archived(bench: Bench) -> None:
    await bench.app.queue("q").set(NOTHING)
    await kept(bench)
    await bench.later("1m")


SUBJECTS: Final[Mapping[str, Callable[[Bench], Awaitable[None]]]] = {
    "waiting": waiting,
    "completed, kept without a rule": kept,
    "completed, kept by the queue's rule": kept_by_rule,
    "completed, kept by a rule of its own": kept_by_own,
    "gone, a tombstone left": tombstones,
    "gone, its id taken": taken_ids,
    "gone, archived (SQLite)": archived,
}


async def bytes_per_job(
    server: Server, subject: Callable[[Bench], Awaitable[None]], jobs: int, payload: int
) -> tuple[float, float]:
    """Bytes per job in the server, and in the archive's file."""
    clock = ManualClock()
    with tempfile.TemporaryDirectory() as folder, server.client() as client:
        client.flushall()
        path = Path(folder) / "archive.db"
        config: dict[str, Any] = {"cleanup": {"slice": 100, "rest": 0}}  # nobody else is there
        if subject is archived:
            config["archive"] = {"sqlite": str(path)}
        async with App(server.url, clock=clock, config=config) as app:
            bench = Bench(client, app, clock, jobs, payload, path)
            # What is there once, for however many jobs, is not counted: scripts, settings, records.
            bench.jobs = 10
            await subject(bench)
            before = bench.used()
            bench.jobs = jobs
            await subject(bench)
            used = bench.used() - before
            disk = _size(folder)
    return used / jobs, disk / jobs


def _size(folder: str) -> int:
    return sum(file.stat().st_size for file in Path(folder).iterdir())


async def event_bytes(server: Server) -> float:
    """Bytes of an event stream that is as long as it gets."""
    with server.client() as client:
        client.flushall()
        async with App(server.url) as app:
            many = [NewJob("send", {"n": n}) for n in range(EVENTS)]
            await app.queue("q").add_many(many)
            await app.worker("q", noop, concurrency=100).run(burst=True)
        size: Any = client.memory_usage("bull:q:events", samples=0)
        return float(size)


async def connections(server: Server) -> dict[str, int]:
    """How many connections there are while each of these works."""

    def count() -> int:
        with server.client() as client:
            return len(client.client_list()) - 1

    found: dict[str, int] = {}
    async with App(server.url) as app:
        queue = app.queue("q")
        await queue.counts()
        found["a producer, one call after the other"] = count()
        await asyncio.gather(*(queue.add("send") for _ in range(100)))
        found["a producer, 100 callers who wait at once"] = count()
        await asyncio.gather(*(queue.counts() for _ in range(100)))
        found["an App, at the most"] = count()
    for concurrency in (1, 100):
        async with App(server.url) as app:
            await app.queue("q").add_many(NewJob("send") for _ in range(50))
            await app.queue("q").counts()
            before = count()
            most = 0

            async def look(job: ActiveJob) -> None:
                nonlocal most
                most = max(most, count())

            await app.worker("q", look, concurrency=concurrency).run(burst=True)
            found[f"a worker beside its App, concurrency {concurrency}"] = most - before
    return found


@dataclass(frozen=True)
class Footprint:
    """All that was measured."""

    bytes: dict[str, dict[int, tuple[float, float]]]
    """By what is kept and by the bytes of the data: in the server, and in the archive, per job."""
    event_stream: float
    connections: dict[str, int]


def measure(jobs: int, payloads: Sequence[int]) -> Footprint:
    """Measure everything."""
    server = Server.start()
    try:
        sizes = {
            name: {
                payload: asyncio.run(bytes_per_job(server, subject, jobs, payload))
                for payload in payloads
            }
            for name, subject in SUBJECTS.items()
        }
        stream = asyncio.run(event_bytes(server))
        with server.client() as client:
            client.flushall()
        counted = asyncio.run(connections(server))
    finally:
        server.stop()
    return Footprint(sizes, stream, counted)


def table(found: Footprint) -> str:
    payloads = list(next(iter(found.bytes.values())))
    heads = [f"MB per million jobs of {payload} bytes" for payload in payloads]
    lines = [f"| a job is | {' | '.join(heads)} |", "|---" * (len(payloads) + 1) + "|"]
    for name, sizes in found.bytes.items():
        cells = [
            f"{max(0.0, used):,.0f}" + (f", and {disk:,.0f} on disk" if disk else "")
            for used, disk in sizes.values()
        ]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    lines += ["", f"The event stream of a queue: {found.event_stream / 1e6:.1f} MB.", ""]
    lines += ["| who | connections |", "|---|---|"]
    lines += [f"| {name} | {count} |" for name, count in found.connections.items()]
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--jobs", type=int, default=20_000)
    parser.add_argument("--payloads", type=int, nargs="*", default=[100, 1000])
    parser.add_argument("--output", type=Path, help="folder for footprint.json and footprint.md")
    given = parser.parse_args(arguments)
    found = measure(given.jobs, given.payloads)
    text = table(found)
    print(text)
    if given.output:
        write(given.output, "footprint", text, asdict(found))


if __name__ == "__main__":
    main()
