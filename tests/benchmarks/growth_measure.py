"""Measuring what operations cost a server whose queues have a certain size."""

from __future__ import annotations

import asyncio
import statistics
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import redis

from tests.benchmarks.bounded import undisturbed
from tests.support.server import Server
from toril import ActiveJob, App

QUEUE = "bench"
_SCRIPTS = ("evalsha", "eval")
_OURS = ("info", "config|resetstat", "config")
"""What the measuring itself sends."""


@dataclass(slots=True)
class Scene:
    """A server with something on it of a certain size, and an App that works on it."""

    server: Server
    raw: redis.Redis
    app: App
    size: int
    kept: dict[str, Any] = field(default_factory=dict[str, Any])
    """What one operation leaves for another."""

    def queue(self, name: str = QUEUE) -> Any:
        return self.app.queue(name)


Do = Callable[[Scene], Awaitable[int]]
"""Carries an operation out once; of how many jobs (or other items) that was."""


@dataclass(frozen=True, slots=True)
class Operation:
    """Something that is done `times` times, and at most for so many seconds in all.

    `ready`, if given, goes before each time and is not measured. `longest`: an operation whose
    work is in proportion to the size is broken off after so many seconds; then its items are the
    keys that went.
    """

    name: str
    do: Do
    times: int = 20
    ready: Do | None = None
    longest: float = 6.0


@dataclass(frozen=True, slots=True)
class Subject:
    """What grows, to which sizes, how it is made, and what is done then."""

    name: str
    sizes: tuple[int, ...]
    make: Callable[[Scene], Awaitable[None]]
    operations: tuple[Operation, ...]


@dataclass(frozen=True, slots=True)
class Point:
    """What one operation cost at one size.

    `server_us`: time of the server for an item; `items` is 0 if nobody knows how many there were.
    `scripts`: how many there were (or other commands, if there was no script); their durations in
    milliseconds. `client_p50_ms`, `client_p99_ms`: what the caller waited for one operation.
    """

    subject: str
    operation: str
    size: int
    items: int
    server_us: float
    scripts: int
    script_p50_ms: float
    script_p99_ms: float
    longest_ms: float
    longest_command: str
    client_p50_ms: float
    client_p99_ms: float
    whole: bool
    """Whether it was carried out to its end."""


def _p99(durations: Sequence[float]) -> float:
    ordered = sorted(durations)
    return ordered[min(len(ordered) - 1, int(len(ordered) * 0.99))]


def _cost(client: redis.Redis) -> tuple[float, int, Mapping[str, Mapping[str, float]]]:
    """Microseconds and number of scripts since the statistics were emptied, or of all commands if
    there was no script; and of every command the percentiles in microseconds."""
    stats: dict[str, Any] = client.info("commandstats")
    by_name = {name.removeprefix("cmdstat_"): each for name, each in stats.items()}
    names = [name for name in _SCRIPTS if name in by_name]
    names = names or [name for name in by_name if name not in _OURS]
    latency: dict[str, Any] = client.info("latencystats")
    prefix = "latency_percentiles_usec_"
    percentiles = {
        name.removeprefix(prefix): each
        for name, each in latency.items()
        if name.removeprefix(prefix) not in _OURS
    }
    usec = sum(float(by_name[name]["usec"]) for name in names)
    calls = sum(int(by_name[name]["calls"]) for name in names)
    return usec, calls, percentiles


async def measure(subject: str, operation: Operation, scene: Scene) -> Point:
    """Carry an operation out, so often or for so long as it says."""
    usec, calls, items, whole = 0.0, 0, 0, True
    waits: list[float] = []
    medians: list[float] = []
    p99 = longest = 0.0
    longest_command = ""
    began = time.perf_counter()
    scene.raw.config_resetstat()
    for _ in range(operation.times):
        if operation.ready:
            await operation.ready(scene)
            scene.raw.config_resetstat()
        keys = scene.raw.dbsize()
        started = time.perf_counter()
        try:
            async with asyncio.timeout(operation.longest):
                items += await operation.do(scene)
        except TimeoutError:
            whole = False
            items += abs(keys - scene.raw.dbsize())
        waits.append((time.perf_counter() - started) * 1000)
        over = not whole or time.perf_counter() - began > operation.longest
        if operation.ready or over or len(waits) == operation.times:
            spent, made, percentiles = _cost(scene.raw)
            usec, calls = usec + spent, calls + made
            scripts = [percentiles[name] for name in _SCRIPTS if name in percentiles]
            of_interest = scripts or list(percentiles.values())
            medians.append(max((float(each["p50"]) for each in of_interest), default=0.0))
            p99 = max(p99, *(float(each["p99"]) for each in of_interest), 0.0)
            for name, each in percentiles.items():
                if float(each["p100"]) > longest:
                    longest, longest_command = float(each["p100"]), name
        if over:
            break
    if items < calls and not whole:
        items = 0  # it was broken off while it only looked
    return Point(
        subject, operation.name, scene.size, items, usec / max(items, 1), calls,
        statistics.median(medians) / 1000, p99 / 1000, longest / 1000, longest_command,
        statistics.median(waits), _p99(waits), whole,
    )  # fmt: skip


async def points(subject: Subject, sizes: Sequence[int]) -> list[Point]:
    """All operations of a subject at these sizes, each size on a server of its own."""
    found: list[Point] = []
    for size in sizes:
        server = Server.start({"latency-tracking-info-percentiles": "50 99 100"})
        try:
            undisturbed(server.pid, 0)
            with server.client() as raw:
                async with App(server.url) as app:
                    scene = Scene(server, raw, app, size)
                    await subject.make(scene)
                    found += [
                        await measure(subject.name, operation, scene)
                        for operation in subject.operations
                    ]
        finally:
            server.stop()
    return found


async def work(scene: Scene, jobs: int, *, concurrency: int = 100, queue: str = QUEUE) -> int:
    """A worker takes and finishes so many jobs, which do nothing; or what there is, if less."""
    done = 0
    enough = asyncio.Event()

    async def noop(job: ActiveJob) -> None:
        nonlocal done
        done += 1
        if done >= jobs:
            enough.set()

    worker = scene.app.worker(queue, noop, concurrency=concurrency)
    running = asyncio.create_task(worker.run(burst=True))
    waiting = asyncio.create_task(enough.wait())
    try:
        await asyncio.wait({running, waiting}, return_when=asyncio.FIRST_COMPLETED)
        await worker.stop()
        await running
    finally:
        for task in (running, waiting):
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task
    return done
