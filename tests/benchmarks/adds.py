"""What adding a job costs, by the way it is added: its processor time here and in the server.

    python -m tests.benchmarks.adds --jobs 20000 [--only bulk] [--profile FILE]

    one        one after another, each awaited
    callers    100 tasks at a time, each awaiting its own
    bulk       `add_many`
    flows      `add_flows`: parents with 10 children each, over two queues
    sync       `app.sync`, one thread
    threads    `app.sync`, 8 threads

Processor time is counted, not time, so that other work on the machine does little harm; a figure
is the least of some runs. Where there are two processors, the server has the first and this
process the last. `--profile` writes what cProfile saw of one subject to a file.
"""

from __future__ import annotations

import argparse
import asyncio
import cProfile
import os
import sys
import time
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Final, TypeAlias

from tests.support.server import Server
from toril import App, Flow, NewJob
from toril.sync import SyncApp

PAYLOAD: Final = {"to": "ada@example.org", "text": "x" * 64}
CALLERS: Final = 100
CHILDREN: Final = 10
THREADS: Final = 8

Times: TypeAlias = tuple[float, float, float]


@dataclass(frozen=True)
class Cost:
    """Microseconds a job: of this process, of the server, and by the clock."""

    here: float
    server: float
    clock: float


async def one(app: App, jobs: int) -> None:
    queue = app.queue("bench")
    for _ in range(jobs):
        await queue.add("send", PAYLOAD)


async def callers(app: App, jobs: int) -> None:
    queue = app.queue("bench")

    async def caller() -> None:
        for _ in range(jobs // CALLERS):
            await queue.add("send", PAYLOAD)

    await asyncio.gather(*(caller() for _ in range(CALLERS)))


async def bulk(app: App, jobs: int) -> None:
    await app.queue("bench").add_many([NewJob("send", PAYLOAD) for _ in range(jobs)])


async def flows(app: App, jobs: int) -> None:
    await app.add_flows(
        Flow("bench", "parent", PAYLOAD, children=[_child() for _ in range(CHILDREN)])
        for _ in range(jobs // (CHILDREN + 1))
    )


def _child() -> Flow:
    return Flow("steps", "child", PAYLOAD)


def sync(app: SyncApp, jobs: int) -> None:
    queue = app.queue("bench")
    for _ in range(jobs):
        queue.add("send", PAYLOAD)


def threads(app: SyncApp, jobs: int) -> None:
    with ThreadPoolExecutor(THREADS) as pool:
        for done in [pool.submit(sync, app, jobs // THREADS) for _ in range(THREADS)]:
            done.result()


AWAITED: Final[dict[str, Callable[[App, int], Awaitable[None]]]] = {
    "one": one,
    "callers": callers,
    "bulk": bulk,
    "flows": flows,
}
BLOCKING: Final[dict[str, Callable[[SyncApp, int], None]]] = {"sync": sync, "threads": threads}
SUBJECTS: Final = (*AWAITED, *BLOCKING)


def measure(server: Server, subject: str, jobs: int, profile: str | None = None) -> Cost:
    """One run on an emptied server."""
    with server.client() as client:
        client.flushall()

    def spent() -> float:
        with server.client() as client:
            return float(client.info("cpu")["used_cpu_user_main_thread"]) + float(
                client.info("cpu")["used_cpu_sys_main_thread"]
            )

    profiler = cProfile.Profile()

    def timed() -> Times:
        return time.process_time(), time.perf_counter(), spent()

    async def run() -> tuple[Times, Times]:
        async with App(server.url) as app:
            await app.queue("bench").add("first")
            before = timed()
            if profile:
                profiler.enable()
            await AWAITED[subject](app, jobs)
            profiler.disable()
            return before, timed()

    if subject in BLOCKING:
        with App(server.url).sync as face:
            face.queue("bench").add("first")
            before = timed()
            if profile:
                profiler.enable()
            BLOCKING[subject](face, jobs)
            profiler.disable()
            after = timed()
    else:
        before, after = asyncio.run(run())
    if profile:
        profiler.dump_stats(profile)
    here, clock, there = (b - a for a, b in zip(before, after, strict=True))
    return Cost(here / jobs * 1e6, there / jobs * 1e6, clock / jobs * 1e6)


def main() -> None:
    parser = argparse.ArgumentParser(description="What adding a job costs.")
    parser.add_argument("--jobs", type=int, default=20_000)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--only", nargs="*", choices=SUBJECTS, default=SUBJECTS)
    parser.add_argument("--profile", help="a file for what cProfile saw; with one subject")
    given = parser.parse_args()
    server = Server.start()
    try:
        if hasattr(os, "sched_setaffinity"):
            processors = sorted(os.sched_getaffinity(0))
            os.sched_setaffinity(server.pid, {processors[0]})
            os.sched_setaffinity(0, {processors[-1]})
        print("| added | µs a job here | in the server | by the clock | jobs/s |")
        print("|---|---|---|---|---|")
        for subject in given.only:
            jobs = given.jobs
            costs = [measure(server, subject, jobs, given.profile) for _ in range(given.runs)]
            here, there, clock = (
                min(getattr(cost, part) for cost in costs) for part in ("here", "server", "clock")
            )
            print(f"| {subject} | {here:.1f} | {there:.1f} | {clock:.1f} | {1e6 / clock:,.0f} |")
            sys.stdout.flush()
    finally:
        server.stop()


if __name__ == "__main__":
    main()
