"""A server on which somebody says something, somebody finishes jobs, and time passes."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from typing import Any, Final, cast

import redis

from tests.conftest import Library
from tests.support.driver import Driver
from toril import ActiveJob, App, Every, Reject, Unrecoverable, hookimpl
from toril.errors import GiveWay
from toril.plugins import Fact, JobRemoved, ManualClock, Outcome
from toril_plugins import Keep, Retention
from toril_plugins.retention.bullmq import to_option

DEADLINE: Final = 15.0  # seconds
OPTION: Final[Mapping[Outcome, str]] = {
    "completed": "removeOnComplete",
    "failed": "removeOnFail",
}


def retention(outcome: Outcome, keep: Keep | None) -> tuple[Retention, ...]:
    """A setting about one outcome, to be given as `*settings`; nothing said: none."""
    if keep is None:
        return ()
    return (Retention(completed=keep) if outcome == "completed" else Retention(failed=keep),)


def steps(outcome: Outcome) -> Any:
    """The data of a job that ends so, as every library's handler reads it."""
    return {"do": [["return", 1] if outcome == "completed" else ["fail", "as asked"]]}


async def handle(job: ActiveJob) -> Any:
    """The handler of the workers in this process."""
    (verb, value), *_ = cast("dict[str, Any]", job.data)["do"]
    if verb == "fail":
        raise Unrecoverable(value)
    return value


async def until(what: str, holds: Callable[[], object]) -> None:
    deadline = time.monotonic() + DEADLINE
    while not holds():
        assert time.monotonic() < deadline, f"not within {DEADLINE} s: {what}"
        await asyncio.sleep(0.002)


class Removals:
    """A plugin that notes which job went by which rule."""

    def __init__(self) -> None:
        self.rules: dict[str, str | None] = {}

    @hookimpl
    def toril_jobs_removed(self, events: Sequence[JobRemoved]) -> None:
        self.rules |= {event.job.id: event.rule for event in events}


class Stage:
    """Apps and foreign libraries on one server.

    `away` is a process, so to speak, that was told nothing: it finishes and sweeps. What is said is
    said by Apps of its own (`app`).
    """

    def __init__(self, url: str, raw: redis.Redis, library: Library) -> None:
        self.raw = raw
        self.clock = ManualClock()
        self.removals = Removals()
        self._url = url
        self._library = library
        self._apps: list[App] = []
        self._foreign: dict[tuple[str, str], str] = {}
        self._drivers: set[Driver] = set()
        self.away = self.app()
        self.gives_way = False
        """Whether a sweep may leave its work to others."""

    def app(self, *settings: Retention, plugins: Sequence[object] = ()) -> App:
        """Another App, closed at the end; `plugins`: beside the default ones."""
        used = [self.removals, *plugins, "*"]
        made = App(self._url, *settings, plugins=used, clock=self.clock)
        self._apps.append(made)
        return made

    def driver(self, library: str) -> Driver:
        """A foreign library, reset at the end."""
        driver = self._library(library)
        self._drivers.add(driver)
        return driver

    async def aclose(self) -> None:
        for driver in self._drivers:
            await driver.reset()
        for app in self._apps:
            await app.aclose()

    # -- what happens ------------------------------------------------------------------------------

    async def work(
        self, library: str, queue: str, *says: Retention, app: App | None = None
    ) -> None:
        """Let a worker of `library` run what waits in the queue, until nothing does.

        A foreign worker stays until the end. `says`: the worker's own value; foreign workers get it
        as their option. `app`: whose worker it is, if it is Toril's (default: `away`).
        """
        if library == "toril":
            worker = (app or self.away).worker(queue, handle, *says, max_stalled=0)
            async with worker:
                await self.worked_off(queue)
            return
        driver = self.driver(library)
        if (library, queue) not in self._foreign:
            options = {"maxStalledCount": 0, "stalledInterval": 100, **_their_options(says)}
            self._foreign[library, queue] = await driver.worker(queue, **options)
        await self.worked_off(queue)
        errors = await driver.worker_errors(self._foreign[library, queue])
        assert errors == [], f"errors of the worker of {library}"

    async def leave(self, library: str, queue: str) -> None:
        """Close the foreign worker of that queue."""
        handle = self._foreign.pop((library, queue))
        # It is idle; BullMQ for Python may wait for ever where it is not forced.
        await self.driver(library).worker_close(handle, force=True)

    async def worked_off(self, queue: str) -> None:
        """Wait until no job of the queue waits or runs."""
        await until(f"{queue} is worked off", lambda: self._is_idle(queue))

    def _is_idle(self, queue: str) -> bool:
        pipeline = self.raw.pipeline(transaction=True)
        pipeline.llen(f"bull:{queue}:wait")
        pipeline.llen(f"bull:{queue}:active")
        return not any(pipeline.execute())

    def strand(self, queue: str, id: str) -> None:
        """Leave the only waiting job as a vanished worker and the first of two checks leave it."""
        assert self.raw.lmove(f"bull:{queue}:wait", f"bull:{queue}:active") == id
        self.raw.hincrby(f"bull:{queue}:{id}", "ats")
        self.raw.sadd(f"bull:{queue}:stalled", id)
        self.raw.delete(f"bull:{queue}:stalled-check")  # so that the next check is due

    async def schedule(
        self, by: str, queue: str, data: Any, said: tuple[Retention, ...], makes: str
    ) -> str:
        """A schedule that `by` has made, whose second run waits; `makes`: who has added that.

        Nothing is left of the first one, unless it is held. Returns the id of the second.
        """
        if by == "toril":
            await self.away.queue(queue).schedule("s", Every("1d"), "job", data, *said)
        else:
            opts = {OPTION[o]: to_option(each) for o in OPTION for s in said if (each := s.of(o))}
            template = {"name": "job", "data": data, "opts": opts}
            repeat = {"every": 86_400_000}
            await self.driver(by).act("schedule", queue, id="s", repeat=repeat, template=template)
        await self.work(makes, queue)
        (run,) = cast("list[str]", self.raw.zrange(f"bull:{queue}:delayed", 0, -1))
        if makes != "toril":
            await self.leave(makes, queue)
        for state in ("completed", "failed"):
            for first in cast("list[str]", self.raw.zrange(f"bull:{queue}:{state}", 0, -1)):
                with suppress(Reject):  # it is held
                    await self.away.queue(queue).remove(first)
        self.raw.zrem(f"bull:{queue}:delayed", run)
        self.raw.lpush(f"bull:{queue}:wait", run)
        self.raw.zadd(f"bull:{queue}:marker", {"0": 0})
        return run

    async def sweep(self, queue: str, *, later: str = "0s") -> None:
        """One sweep of the queue, so much later."""
        self.clock.advance(later)
        try:
            assert await self.away.run_services(queue), "nobody else sweeps"
        except GiveWay:
            assert self.gives_way

    # -- what is there -----------------------------------------------------------------------------

    def state(self, queue: str, id: str) -> str:
        """Where the job is, by the keys themselves."""
        q, raw = f"bull:{queue}", self.raw
        for name in ("completed", "failed", "delayed", "waiting-children", "prioritized"):
            if raw.zscore(f"{q}:{name}", id) is not None:
                return name
        for name in ("wait", "active"):
            if raw.lpos(f"{q}:{name}", id) is not None:
                return name
        return "unknown" if raw.exists(f"{q}:{id}") else "gone"

    def leftovers(self, queue: str, id: str) -> list[str]:
        """Keys that still speak of a job."""
        found: list[str] = []
        for key in cast("Iterator[str]", self.raw.scan_iter(f"bull:{queue}:*", count=1000)):
            rest = key.removeprefix(f"bull:{queue}:")
            kind = self.raw.type(key) if rest.startswith("toril:cleanup:") else None
            if (
                f"{rest}:".startswith(f"{id}:")
                or (kind == "zset" and self.raw.zscore(key, id) is not None)
                or (kind == "hash" and self.raw.hexists(key, id))
            ):
                found.append(key)
        return found

    def options(self, queue: str, id: str) -> dict[str, Any]:
        """What the job's stored options say about retention."""
        stored: dict[str, Any] = json.loads(str(self.raw.hget(f"bull:{queue}:{id}", "opts")))
        return {name: value for name, value in stored.items() if name in OPTION.values()}

    def events(self, queue: str) -> list[dict[str, str]]:
        """The queue's events, oldest first."""
        entries = cast("list[tuple[str, dict[str, str]]]", self.raw.xrange(f"bull:{queue}:events"))
        return [fields for _, fields in entries]

    async def explained(self, queue: str, id: str) -> str | None:
        """The rule under which a kept job stands, `level: value`; None: nobody said anything.

        Of a held one: `held`, and behind it what would count if it were not.
        """
        job = await self.away.queue(queue).get(id)
        assert job is not None
        told: dict[str, Fact] = {}
        for fact in await job.explain():
            told.setdefault(fact.subject, fact)
        if "hold" not in told:
            return f"{told['rule'].level}: {told['rule'].text}" if told["rule"].level else None
        assert told["removal"].text.startswith("not while it is held")
        assert "rule" not in told
        assert told["hold"].level == "queue"
        if "said" not in told:
            return "held"
        value, _, _ = told["said"].text.rpartition(", by ")
        return f"held; {told['said'].level}: {value}"


def _their_options(says: Sequence[Retention]) -> dict[str, Any]:
    """The same as options of a worker of BullMQ; for ever is a count that no test reaches."""
    return {
        option: {"count": 1000 if keep.last is None else keep.last}
        for said in says
        for outcome, option in OPTION.items()
        if (keep := said.of(outcome)) is not None
    }
