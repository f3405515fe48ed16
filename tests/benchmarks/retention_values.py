"""What each value of retention costs: commands and bytes per job, on a server of its own.

    python -m tests.benchmarks.retention_values --jobs 2000 --output FOLDER

Jobs are added, finished 100 to a call and swept by a clock that is moved by hand. Commands are
those that the server counted (`INFO commandstats`), inside scripts too: at the finish beyond what
the same jobs cost when nothing is said, in the sweeps all of them. Bytes are `MEMORY USAGE`: what
the plugin `cleanup` keeps about a kept job, what the job's own hash has grown by, and what is left
of the job when it is gone.
Prints a Markdown table; with --output it also writes `retention_values.json`. Counts and bytes are
the same on every machine.
"""

from __future__ import annotations

import argparse
import asyncio
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Final

import redis

from tests.support.server import Server
from toril import ActiveJob, App, Flow, NewJob
from toril.plugins import ManualClock
from toril_plugins import IdWindow, Keep, Retention

FAMILY: Final = 10
"""Jobs of a flow: a root and its children."""
NOT_COUNTED: Final = {"info", "config", "hello", "client", "memory", "ping", "scan", "select"}

Said = Callable[[int], Retention]
"""What is said for the job with that number."""


@dataclass(frozen=True)
class Variant:
    """`live`: said for the queue; `own`: for each job; `whole`: for each flow."""

    name: str
    live: Retention | None = None
    own: Said | None = None
    flow: bool = False
    whole: Retention | None = None
    window: bool = False


def both(keep: Keep) -> Retention:
    return Retention(completed=keep)


TIERS = Keep("30d", logs="1d", data="7d")
VARIANTS: Final = (
    Variant("nothing said"),
    Variant("queue: 30d", both(Keep("30d"))),
    Variant("queue: first 2 and last 3 per name", both(Keep(first=2, last=3, key="name"))),
    Variant("queue: 30d, logs 1d, data 7d", both(TIERS)),
    Variant("queue: 30d, tombstone 365d", both(Keep("30d", tombstone="365d"))),
    Variant("queue: 30d, and an id window", both(Keep("30d")), window=True),
    Variant("job: 30d", own=lambda _: both(Keep("30d"))),
    Variant("job: last 100000", own=lambda _: both(Keep(last=100_000))),
    Variant("job: last 5 of a group", own=lambda n: both(Keep(last=5, group=f"g{n % 400}"))),
    Variant("job: 30d, logs 1d, data 7d", own=lambda _: both(TIERS)),
    Variant("job: 30d, tombstone 365d", own=lambda _: both(Keep("30d", tombstone="365d"))),
    Variant("nothing said, flows", flow=True),
    Variant("flow: 30d", flow=True, whole=both(Keep("30d"))),
    Variant("flow: 30d, flow", flow=True, whole=both(Keep("30d", flow=True))),
)


@dataclass(frozen=True)
class Cost:
    """Per job. `finish`, `strip` and `removal` count commands, the others bytes."""

    name: str
    finish: float
    strip: float
    removal: float
    kept: float
    in_the_job: float
    left: float
    gone: int


class Measuring:
    """One variant on an empty server."""

    def __init__(self, client: redis.Redis, url: str, variant: Variant, jobs: int) -> None:
        self._client = client
        self._url = url
        self._variant = variant
        self._jobs = jobs

    def _commands(self) -> int:
        stats: Any = self._client.info("commandstats")
        return sum(
            stats[name]["calls"]
            for name in stats
            if name.removeprefix("cmdstat_").partition("|")[0] not in NOT_COUNTED
        )

    def _bytes(self, pattern: str) -> int:
        keys: Any = list(self._client.scan_iter(pattern, count=1000))
        sizes = [self._client.memory_usage(key, samples=0) for key in keys]
        return sum(size for size in sizes if isinstance(size, int))

    async def run(self) -> Cost:
        self._client.flushall()
        clock = ManualClock()
        async with App(self._url, clock=clock) as app:
            await self._say(app)
            await self._add(app)
            before = self._commands()
            for name in ("q", "p"):
                await app.worker(name, finish, concurrency=100).run(burst=True)
            finished = self._commands()
            kept = self._bytes("bull:[pq]:toril:cleanup:*")
            hashes = self._bytes("bull:[pq]:job-*[0-9]")
            stripped, removed = await self._sweep(app, clock)
            left = self._bytes("bull:[pq]:toril:cleanup:t[oa]*@*")
            gone = self._jobs - self._count()
        per = self._jobs
        return Cost(
            self._variant.name, (finished - before) / per, stripped / per, removed / max(1, gone),
            kept / per, hashes / per, left / max(1, gone), gone,
        )  # fmt: skip

    def _count(self) -> int:
        counts: list[Any] = [self._client.zcard(f"bull:{name}:completed") for name in ("q", "p")]
        return int(sum(counts))

    async def _say(self, app: App) -> None:
        for name in ("q", "p"):
            if self._variant.live is not None:
                await app.queue(name).set(self._variant.live)
            if self._variant.window:
                await app.queue(name).set(IdWindow("1h"))

    async def _add(self, app: App) -> None:
        variant = self._variant
        if not variant.flow:
            own = variant.own
            await app.queue("q").add_many(
                NewJob(f"name{n % 400}", {"n": n}, *(own(n),) if own else (), id=f"job-{n:09}")
                for n in range(self._jobs)
            )
            return
        for first in range(0, self._jobs, FAMILY):
            names = [f"job-{n:09}" for n in range(first, first + FAMILY)]
            children = [Flow("q", "child", {"n": 1}, id=name) for name in names[1:]]
            root = Flow("p", "root", {"n": 1}, id=names[0], children=children)
            await app.add_flow(root, *(() if variant.whole is None else (variant.whole,)))

    async def _sweep(self, app: App, clock: ManualClock) -> tuple[int, int]:
        """Commands of the sweeps that strip, and of those that remove."""
        for name in ("q", "p"):
            await app.run_services(name)
        before = self._commands()
        for later in ("1d", "6d"):
            clock.advance(later)
            await app.run_services("q")
        stripped = self._commands()
        clock.advance("23d")
        for name in ("p", "q"):
            await app.run_services(name)
        return stripped - before, self._commands() - stripped


async def finish(job: ActiveJob) -> int:
    return 1


def measure(jobs: int, variants: Sequence[Variant] = VARIANTS) -> list[Cost]:
    """The costs of the variants. Those after one that says nothing are compared with it."""
    server = Server.start()
    try:
        with server.client() as client:
            return list(_measure(client, server.url, variants, jobs))
    finally:
        server.stop()


def _measure(
    client: redis.Redis, url: str, variants: Sequence[Variant], jobs: int
) -> Iterator[Cost]:
    base: Cost | None = None
    for variant in variants:
        cost = asyncio.run(Measuring(client, url, variant, jobs).run())
        if base is None or variant.name.startswith("nothing"):
            base = cost
        yield replace(
            cost,
            finish=cost.finish - base.finish,
            in_the_job=cost.in_the_job - base.in_the_job,
            removal=cost.removal if cost.gone else 0,
        )


def table(costs: Sequence[Cost]) -> str:
    """A Markdown table of them."""
    columns = (
        "what is said", "commands at the finish", "in sweeps before it goes", "when it goes",
        "bytes beside the job", "in the job", "left of it",
    )  # fmt: skip
    lines = [f"| {' | '.join(columns)} |", "|---" * len(columns) + "|"]
    lines += [
        f"| {c.name} | {c.finish:.1f} | {c.strip:.1f} | {c.removal:.1f} | {c.kept:.0f} "
        f"| {c.in_the_job:.0f} | {c.left:.0f} |"
        for c in costs
    ]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--jobs", type=int, default=2000)
    parser.add_argument("--output", type=Path)
    options = parser.parse_args()
    costs = measure(options.jobs)
    print(table(costs))
    if options.output is not None:
        options.output.mkdir(parents=True, exist_ok=True)
        text = json.dumps([asdict(cost) for cost in costs], indent=1)
        (options.output / "retention_values.json").write_text(text)


if __name__ == "__main__":
    main()
