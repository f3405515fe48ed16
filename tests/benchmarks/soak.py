"""Whether a worker grows over a million jobs: its memory, and what is left on the server.

    python -m tests.benchmarks.soak --jobs 1000000

One process adds jobs and works them off, 100 at once; the queue keeps the newest 100. After every
tenth of the jobs it tells the memory of the process (RSS, Linux only), the memory and the keys of
the server. Prints a Markdown table.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import redis

from tests.support.server import Server
from toril import ActiveJob, App, NewJob
from toril_plugins import Retention

KEPT: Final = 100
ROUND: Final = 1000


@dataclass(frozen=True)
class State:
    """After so many jobs: bytes of the process and of the server, and keys."""

    jobs: int
    process: int
    server: int
    keys: int


def resident() -> int:
    """Bytes of this process in memory."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) * 1024
    raise RuntimeError("this system does not tell what a process has in memory")


async def soak(url: str, jobs: int) -> list[State]:
    """Run so many jobs; the state after each tenth."""
    states: list[State] = []
    run, worked_off = 0, asyncio.Event()

    async def count(_job: ActiveJob) -> None:
        nonlocal run
        run += 1
        if run % ROUND == 0:
            worked_off.set()

    with redis.Redis.from_url(url) as client:
        async with App(url) as app:
            queue = app.queue("soak", Retention(completed=KEPT))
            async with app.worker("soak", count, concurrency=100):
                for done in range(ROUND, jobs + 1, ROUND):
                    worked_off.clear()
                    await queue.add_many([NewJob("send", {"n": n}) for n in range(ROUND)])
                    await worked_off.wait()
                    if done % max(jobs // 10, ROUND) == 0:
                        gc.collect()
                        states.append(_state(client, done))
    return states


def _state(client: redis.Redis, done: int) -> State:
    memory: Any = client.info("memory")
    keys: Any = client.dbsize()
    return State(done, resident(), memory["used_memory"], keys)


def table(states: Sequence[State]) -> Iterator[str]:
    yield "| jobs | process, MiB | server, MiB | keys |"
    yield "|---|---|---|---|"
    for state in states:
        yield (
            f"| {state.jobs:,} | {state.process / 2**20:.1f} | {state.server / 2**20:.1f} "
            f"| {state.keys} |"
        )


def main(arguments: Sequence[str] | None = None) -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--jobs", type=int, default=1_000_000)
    options = parser.parse_args(arguments)
    server = Server.start()
    try:
        states = asyncio.run(soak(server.url, options.jobs))
    finally:
        server.stop()
    print("\n".join(table(states)))


if __name__ == "__main__":
    main()
