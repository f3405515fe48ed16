"""Stories that any pair of job libraries can play: one library produces and operates, one works.

A scenario is data: a name and steps. Playing it gives the dumps that its `Dump` steps asked for.
Delays in scenarios are multiples of `dump.GRAIN`, and job names are unique within a scenario,
because they stand for the ids that each library makes in its own way.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol, cast

import redis

from tests.support.driver import Driver, DriverError
from tests.support.dump import dump

PREFIX = "bull"
SETTLE_DEADLINE = 8.0  # seconds

Entries = list[tuple[str, dict[str, str]]]

ZSETS = ("completed", "failed", "delayed", "prioritized", "waiting-children")
LISTS = ("active", "wait", "paused")


@dataclass
class Run:
    """One performance of a scenario."""

    producer: Driver
    worker: Driver
    client: redis.Redis
    since: int = field(default_factory=lambda: int(time.time() * 1000))
    ids: dict[str, tuple[str, str]] = field(default_factory=dict[str, tuple[str, str]])
    workers: list[str] = field(default_factory=list[str])
    lines: list[str] = field(default_factory=list[str])

    def key(self, queue: str, *rest: str) -> str:
        return ":".join((PREFIX, queue, *rest))

    def find(self, name: str) -> tuple[str, str]:
        """Queue and id of the job of that name, also if a handler added it."""
        if name not in self.ids:
            for key in cast("Iterator[str]", self.client.scan_iter(f"{PREFIX}:*:events")):
                for _, fields in cast("Entries", self.client.xrange(key)):
                    if fields.get("event") == "added" and fields.get("name") == name:
                        self.ids[name] = (key.split(":")[1], fields["jobId"])
        return self.ids[name]

    def state(self, name: str) -> str:
        """The job's state by the lists and sets themselves; `gone` without a hash."""
        try:
            queue, job = self.find(name)
        except KeyError:
            return "gone"
        for each in ZSETS:
            if self.client.zscore(self.key(queue, each), job) is not None:
                return each
        for each in LISTS:
            if self.client.lpos(self.key(queue, each), job) is not None:
                return each
        return "unknown" if self.client.exists(self.key(queue, job)) else "gone"

    def blocked(self) -> int:
        """How many workers wait for a marker at this moment."""
        clients = self.client.client_list()
        return sum(1 for each in clients if each["cmd"] == "bzpopmin" and "b" in each["flags"])

    async def until(self, what: str, holds: Callable[[], bool]) -> None:
        """Wait until it holds; an error that shows the database if it never does."""
        deadline = time.monotonic() + SETTLE_DEADLINE
        while not holds():
            if time.monotonic() > deadline:
                errors = [await self.worker.worker_errors(each) for each in self.workers]
                shown = "\n".join(dump(self.client, self.since, PREFIX))
                raise AssertionError(
                    f"{self.producer} and {self.worker} did not come to: {what}\n"
                    f"worker errors: {errors}\n{self.worker.errors}\n{shown}"
                )
            await asyncio.sleep(0.004)


class Step(Protocol):
    async def __call__(self, run: Run, /) -> None: ...


@dataclass(frozen=True)
class Scenario:
    """A story, and who cannot play it: `python producer` → why."""

    name: str
    steps: tuple[Step, ...]
    unable: Mapping[str, str] = field(default_factory=dict[str, str])

    async def play(self, producer: Driver, worker: Driver, client: redis.Redis) -> list[str]:
        """Play it on an emptied server; the dumps, each under its title."""
        drivers = {producer, worker}
        for driver in drivers:
            await driver.reset()  # a queue still open from a test before would not describe itself
        client.flushall()
        run = Run(producer, worker, client)
        try:
            for step in self.steps:
                await step(run)
        finally:
            for driver in drivers:
                await driver.reset()
        return run.lines


# -- producing -------------------------------------------------------------------------------------


def script(steps: tuple[list[Any], ...]) -> Any:
    return {"do": list(steps)}


@dataclass(frozen=True)
class Add:
    """Add one job; `do` is what its handler does, `data` replaces that."""

    queue: str
    name: str
    do: tuple[list[Any], ...] = ()
    opts: Mapping[str, Any] = field(default_factory=dict[str, Any])
    data: Any = None
    parent: str | None = None
    again: bool = False  # an id that is there already: the name of the first job stands

    async def __call__(self, run: Run, /) -> None:
        opts = dict(self.opts)
        if self.parent is not None:
            queue, parent = run.find(self.parent)
            opts["parent"] = {"id": parent, "queue": run.key(queue)}
        data = self.data if self.data is not None else script(self.do)
        added = await run.producer.add(self.queue, self.name, data, opts)
        if not self.again:
            run.ids[self.name] = (self.queue, added)


@dataclass(frozen=True)
class Bulk:
    """Add several jobs in one call."""

    queue: str
    jobs: tuple[Add, ...]

    async def __call__(self, run: Run, /) -> None:
        jobs = [{"name": j.name, "data": script(j.do), "opts": dict(j.opts)} for j in self.jobs]
        added = await run.producer.add_bulk(self.queue, jobs)
        for each, job in zip(self.jobs, added, strict=True):
            run.ids[each.name] = (self.queue, job)


@dataclass(frozen=True)
class Node:
    """One job of a flow."""

    queue: str
    name: str
    do: tuple[list[Any], ...] = ()
    opts: Mapping[str, Any] = field(default_factory=dict[str, Any])
    children: tuple[Node, ...] = ()

    def plain(self) -> dict[str, Any]:
        return {
            "queue": self.queue,
            "name": self.name,
            "data": script(self.do),
            "opts": dict(self.opts),
            "children": [child.plain() for child in self.children],
        }


@dataclass(frozen=True)
class Flow:
    """Add a flow."""

    root: Node

    async def __call__(self, run: Run, /) -> None:
        def note(tree: dict[str, Any]) -> None:
            run.ids.setdefault(tree["name"], (tree["queue"], tree["id"]))
            for child in tree["children"]:
                note(child)

        note(await run.producer.add_flow(self.root.plain()))


# -- operating -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Act:
    """An operator's action (see `Driver.act`) on a queue, or on a job given by its name."""

    action: str
    target: str
    params: Mapping[str, Any] = field(default_factory=dict[str, Any])
    refused: bool = False

    async def __call__(self, run: Run, /) -> None:
        params = dict(self.params)
        queue = self.target
        if queue in run.ids:
            queue, params["id"] = run.find(self.target)
        try:
            await run.producer.act(self.action, queue, **params)
        except DriverError as error:
            if not self.refused or error.name in {"Unsupported", "Gone"}:
                raise
        else:
            assert not self.refused, f"{self.action} on {self.target} should have been refused"


@dataclass(frozen=True)
class Surgery:
    """Something that only a test does: a change of the database by hand."""

    change: Callable[[Run], object]

    async def __call__(self, run: Run, /) -> None:
        self.change(run)


@dataclass(frozen=True)
class Abandon:
    """Leave a waiting job as a worker leaves it that vanished: active, marked, without a lock."""

    name: str
    priority: bool = False

    async def __call__(self, run: Run, /) -> None:
        queue, job = run.find(self.name)
        run.client.lrem(run.key(queue, "wait"), 0, job)
        run.client.zrem(run.key(queue, "prioritized"), job)
        run.client.lpush(run.key(queue, "active"), job)
        run.client.sadd(run.key(queue, "stalled"), job)
        run.client.delete(run.key(queue, "marker"))


# -- working ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Work:
    """Start a worker with the scripted handler."""

    queue: str
    opts: Mapping[str, Any] = field(default_factory=dict[str, Any])

    async def __call__(self, run: Run, /) -> None:
        run.workers.append(await run.worker.worker(self.queue, **self.opts))


@dataclass(frozen=True)
class Rest:
    """Close all workers, letting them finish what they hold."""

    async def __call__(self, run: Run, /) -> None:
        for handle in run.workers:
            await run.worker.worker_close(handle)
        run.workers.clear()


@dataclass(frozen=True)
class Gated:
    """Wait until the handler of the job stands at its gate."""

    name: str

    async def __call__(self, run: Run, /) -> None:
        await run.worker.gated(self.name)


@dataclass(frozen=True)
class Open:
    """Let it go on."""

    name: str

    async def __call__(self, run: Run, /) -> None:
        await run.worker.open_gate(self.name)


@dataclass(frozen=True)
class Settle:
    """Wait until every named job is in its state, and all workers but `busy` wait for a marker."""

    states: Mapping[str, str]
    busy: int = 0

    async def __call__(self, run: Run, /) -> None:
        def settled() -> bool:
            if any(run.state(name) != state for name, state in self.states.items()):
                return False
            return run.blocked() >= len(run.workers) - self.busy

        await run.until(f"{dict(self.states)}, {self.busy} busy", settled)


@dataclass(frozen=True)
class Until:
    """Wait until something else is true."""

    what: str
    holds: Callable[[Run], bool]

    async def __call__(self, run: Run, /) -> None:
        await run.until(self.what, lambda: self.holds(run))


@dataclass(frozen=True)
class Pass:
    """Let a few milliseconds pass, so that two times differ."""

    ms: int = 5

    async def __call__(self, run: Run, /) -> None:
        await asyncio.sleep(self.ms / 1000)


@dataclass(frozen=True)
class Dump:
    """Take down what is in the database."""

    title: str

    async def __call__(self, run: Run, /) -> None:
        run.lines.append(f"== {self.title}")
        run.lines += dump(run.client, run.since, PREFIX)
