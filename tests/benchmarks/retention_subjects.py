"""What each subject of retention costs: commands on the server and bytes per job.

    python -m tests.benchmarks.retention_subjects --jobs 1000

For each subject jobs are finished, 100 to a call, on a server of its own, and the subject's work is
done once; the clock is moved by hand. Commands are those that the server counted (`INFO
commandstats`), inside scripts too, divided by the jobs; bytes are `MEMORY USAGE` of what the plugin
`cleanup` keeps meanwhile. Both are the same on every machine. Prints a Markdown table.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import tempfile
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import redis

from tests.benchmarks.retention_values import NOT_COUNTED, finish
from tests.support.server import Server
from toril import App, Flow, NewJob, Queue, Unrecoverable, hookimpl
from toril.plugins import FinishedJob, ManualClock
from toril_plugins import Due, Foreign, Hold, Requires, Retention, Verdicts, hold, release
from toril_plugins.archive import Archive
from toril_plugins.retention.planning import plan

AGE: Final = Retention(completed="30d")


@dataclass
class Bench:
    """One subject on an empty server: `async with` nothing else, as every number counts."""

    client: redis.Redis
    app: App
    clock: ManualClock
    jobs: int
    costs: dict[str, tuple[float, float]] = field(default_factory=dict[str, tuple[float, float]])

    @property
    def queue(self) -> Queue:
        return self.app.queue("q")

    def commands(self) -> int:
        stats: Any = self.client.info("commandstats")
        return sum(
            stats[name]["calls"]
            for name in stats
            if name.removeprefix("cmdstat_").partition("|")[0] not in NOT_COUNTED
        )

    def bytes(self) -> int:
        keys: Any = list(self.client.scan_iter("bull:*:toril:cleanup:*", count=1000))
        sizes = [self.client.memory_usage(key, samples=0) for key in keys]
        return sum(size for size in sizes if isinstance(size, int))

    async def count(self, name: str, work: Callable[[], Awaitable[object]]) -> None:
        """Note what `work` costs per job."""
        before = self.commands()
        await work()
        self.costs[name] = ((self.commands() - before) / self.jobs, self.bytes() / self.jobs)

    async def add(self) -> None:
        await self.queue.add_many(
            NewJob("do", {"n": n, "c": n % 2}, id=f"job-{n:09}") for n in range(self.jobs)
        )

    async def finish(self) -> None:
        await self.app.worker("q", finish, concurrency=100).run(burst=True)

    async def sweep(self, later: str = "0s") -> None:
        self.clock.advance(later)
        assert await self.app.run_services("q")


async def nothing(bench: Bench) -> None:
    await bench.count("an add", bench.add)
    await bench.count("a finish", bench.finish)
    await bench.queue.set(AGE)
    await bench.sweep()
    await bench.count("a removal by age", lambda: bench.sweep("31d"))


async def holds(bench: Bench) -> None:
    await bench.queue.set(AGE)
    await hold(bench.queue, Hold(name="never", why="a case"))
    await bench.add()
    await bench.count("a finish, a hold by name that does not match", bench.finish)
    some = Hold(data={"c": 1}, why="a case")
    await bench.count("`hold` by data of half of the jobs", lambda: hold(bench.queue, some))
    await bench.count("a sweep, nothing due", bench.sweep)
    await bench.count("`release` of them", lambda: release(bench.queue, some))


async def guards(bench: Bench) -> None:
    await bench.queue.set(Requires("cleanup"))
    await bench.queue.set(Foreign("isolate"))
    await bench.count("an add with `Requires` and `isolate`", bench.add)
    await bench.queue.unset(Foreign)
    await bench.count("a finish with `Requires`", bench.finish)
    await bench.queue.set(AGE)
    await bench.sweep()
    await bench.count("a removal with `Requires`", lambda: bench.sweep("31d"))


class Reviewer:
    toril_name = "reviewer"

    @hookimpl
    def toril_review_removal(self, due: Sequence[Due]) -> Verdicts:
        return None


class Copier:
    toril_name = "copier"

    @hookimpl
    def toril_before_removal(self, jobs: Sequence[FinishedJob]) -> None:
        return None


async def removal(bench: Bench, name: str) -> None:
    await bench.queue.set(AGE)
    await bench.add()
    await bench.finish()
    await bench.sweep()
    await bench.count(name, lambda: bench.sweep("31d"))


async def reviewed(bench: Bench) -> None:
    await removal(bench, "a removal that is reviewed")


async def copied(bench: Bench) -> None:
    await removal(bench, "a removal that is copied without details")


async def archived(bench: Bench) -> None:
    await removal(bench, "a removal that is archived")
    archive = Archive.of(bench.app)
    page = await archive.find(limit=bench.jobs)

    async def restore() -> None:
        for job in page.jobs:
            await archive.restore(job)

    await bench.count("`archive restore`", restore)


async def looked_at(bench: Bench) -> None:
    await bench.queue.set(AGE)
    await bench.add()
    await bench.finish()
    await bench.sweep()
    await bench.count("`retention plan`", lambda: plan(bench.queue, Retention(completed=10)))
    await bench.count("`audit`", lambda: bench.app.audit("q"))
    ids = [f"job-{n:09}" for n in range(bench.jobs)]

    async def explain() -> None:
        for id in ids:
            job = await bench.queue.get(id)
            assert job is not None
            await job.explain()

    async def erase() -> None:
        for id in ids:
            await bench.queue.erase(id)

    await bench.count("`jobs explain`", explain)
    await bench.count("`jobs erase`", erase)


async def fail(_: object) -> None:
    raise Unrecoverable("as asked")


async def rescued(bench: Bench) -> None:
    for n in range(bench.jobs):
        child = Flow("q", "child", id=f"job-{n:09}", on_failure="fail")
        await bench.app.add_flow(Flow("p", "root", children=[child]))
    await bench.app.worker("q", fail, concurrency=100).run(burst=True)

    async def rescue() -> None:
        for later in ("0s", "61s", "15s"):
            bench.clock.advance(later)
            assert await bench.app.run_services("q")
        assert (await bench.app.queue("p").counts())["failed"] == bench.jobs

    await bench.count("the rescue of a parent", rescue)


SUBJECTS: Final[Sequence[tuple[Callable[[Bench], Awaitable[None]], Sequence[object]]]] = (
    (nothing, ()),
    (holds, ()),
    (guards, ()),
    (reviewed, (Reviewer(),)),
    (copied, (Copier(),)),
    (archived, ()),
    (looked_at, ()),
    (rescued, ()),
)


def measure(jobs: int) -> dict[str, tuple[float, float]]:
    """By what is done: commands per job, and bytes per job that `cleanup` keeps then."""
    costs: dict[str, tuple[float, float]] = {}
    server = Server.start()
    try:
        with server.client() as client, tempfile.TemporaryDirectory() as folder:
            for subject, plugins in SUBJECTS:
                client.flushall()
                config = {"archive": {"sqlite": str(Path(folder) / f"{subject.__name__}.db")}}
                costs |= asyncio.run(
                    _measure(
                        server.url,
                        client,
                        jobs,
                        subject,
                        plugins,
                        config if subject is archived else None,
                    )
                )
    finally:
        server.stop()
    return costs


async def _measure(
    url: str,
    client: redis.Redis,
    jobs: int,
    subject: Callable[[Bench], Awaitable[None]],
    plugins: Sequence[object],
    config: Any,
) -> dict[str, tuple[float, float]]:
    clock = ManualClock()
    async with App(url, plugins=[*plugins, "*"], clock=clock, config=config) as app:
        bench = Bench(client, app, clock, jobs)
        await subject(bench)
        return bench.costs


def table(costs: dict[str, tuple[float, float]]) -> str:
    """A Markdown table of them."""
    lines = ["| what | commands per job | bytes per job |", "|---|---|---|"]
    for name, (commands, kept) in costs.items():
        lines.append(f"| {name} | {commands:.1f} | {kept:.0f} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--jobs", type=int, default=1000)
    logging.disable(logging.WARNING)  # of each job that fails, as it is to
    print(table(measure(parser.parse_args().jobs)))


if __name__ == "__main__":
    main()
