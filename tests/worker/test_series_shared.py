"""One queue's schedules carried on by processes of several libraries, which are killed in turns.

The suite plays a short story. A long one by hand, of so many kills for each pair:

    TORIL_KILLS=60 pytest tests/worker/test_series_shared.py --timeout 900
"""

from __future__ import annotations

import asyncio
import os
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, Final, cast

import pytest
import redis
from tests.conftest import Library
from tests.support.driver import Driver, PythonDriver, TorilDriver
from tests.support.invariants import check
from tests.support.node import Node
from tests.worker.conftest import until

from toril import App

KILLS: Final = int(os.environ.get("TORIL_KILLS", "4"))
EVERY: Final = 150  # ms
SECOND: Final = 1000  # ms
LOCK: Final = 500  # ms
TICK: Final = 5
"""By how much a server's idea of the time may be behind a worker's, in ms."""
WITHIN: Final = 3 * SECOND
"""How long a queue's workers may take for what they do at once, on a busy machine; in ms."""
OPTIONS: Final = {"lockDuration": LOCK, "stalledInterval": 200, "maxStalledCount": 1000}
SCHEDULES: Final[dict[str, dict[str, Any]]] = {
    "s": {"every": EVERY},
    "c": {"pattern": "* * * * * *", "tz": "UTC"},
}
TEMPLATE: Final = {"name": "tick", "data": {"do": [["sleep", 20], ["return", 1]]}}


@dataclass(slots=True)
class Run:
    """What the events tell of one run; times in milliseconds, by the server's clock."""

    added: int = 0
    active: list[int] = field(default_factory=list[int])
    stalled: int = 0
    completed: int = 0


def runs(raw: redis.Redis, schedule: str) -> dict[int, Run]:
    """Every run of a schedule by the time at which it was due, in this order."""
    found: dict[int, Run] = {}
    gone: set[int] = set()
    events = cast("list[tuple[str, dict[str, str]]]", raw.xrange("bull:q:events"))
    for entry, event in events:
        named, _, time = event.get("jobId", "").rpartition(":")
        if named != f"repeat:{schedule}":
            continue
        due, at = int(time), int(entry.split("-")[0])
        run = found.setdefault(due, Run())
        match event["event"]:
            case "added":
                assert not run.added, f"{event['jobId']} was added twice"
                run.added = at
            case "active":
                run.active.append(at)
            case "stalled":
                run.stalled += 1
            case "completed":
                run.completed += 1
            case "removed":
                gone.add(due)
            case _:
                pass
    return {due: run for due, run in sorted(found.items()) if due not in gone}


def unbroken(found: dict[int, Run], step: int) -> None:
    """Each run is followed by the next time, or if that was past by the first to come."""
    for (due, run), (following, successor) in pairwise(found.items()):
        assert (following - due) % step == 0, f"{following} is not in the grid of {due}"
        late = following - step - successor.added
        assert following == due + step or late <= TICK, f"{due} {run} skips to {following}"
        if not run.stalled:
            assert successor.added - run.active[0] < WITHIN, f"{due} had no successor at once"


def once_each(found: dict[int, Run]) -> None:
    """Every run was completed once, and begun again only after its worker had died."""
    for due, run in found.items():
        assert run.completed == 1, f"{due}: {run}"
        assert len(run.active) == 1 + run.stalled, f"{due}: {run}"


class Pair:
    """Two processes that work on one queue; `turn` kills one of them and starts it again."""

    def __init__(self, make: list[Callable[[], Driver]], raw: redis.Redis) -> None:
        self._make = make
        self._raw = raw
        self.alive: list[Driver] = []

    async def begin(self) -> None:
        for make in self._make:
            self.alive.append(make())
            await self.alive[-1].worker("q", **OPTIONS)

    async def turn(self, number: int) -> None:
        """Kill one, see the other carry on, start the killed one again, see both carry on."""
        seat = number % len(self.alive)
        await asyncio.sleep(random.uniform(0.0, 0.05))
        self.alive[seat].kill()
        await self.go_on()
        self.alive[seat] = self._make[seat]()
        await self.alive[seat].worker("q", **OPTIONS)
        await self.go_on()

    async def go_on(self) -> None:
        """Both series get on."""
        before = {each: self.completed(each) for each in SCHEDULES}
        await until(lambda: all(self.completed(each) > before[each] for each in before))

    def completed(self, schedule: str) -> int:
        ended = cast("list[str]", self._raw.zrange("bull:q:completed", 0, -1))
        return sum(each.split(":")[1] == schedule for each in ended)

    def end(self) -> None:
        for driver in self.alive:
            driver.kill()


@pytest.mark.parametrize("names", [("toril", "node"), ("toril", "python")], ids="-".join)
async def test_killed_in_turns(
    node: Node, redis_url: str, raw: redis.Redis, names: tuple[str, ...]
) -> None:
    makers: dict[str, Callable[[], Driver]] = {
        "node": lambda: node.driver(redis_url),
        "python": lambda: PythonDriver(redis_url),
        "toril": lambda: TorilDriver(redis_url),
    }
    raw.hset("bull:q:meta", "opts.maxLenEvents", "1000000")
    pair = Pair([makers[name] for name in names], raw)
    try:
        await pair.begin()
        for made_by, (schedule, repeat) in zip(pair.alive, SCHEDULES.items(), strict=True):
            await made_by.act("schedule", "q", id=schedule, repeat=repeat, template=TEMPLATE)
        for number in range(KILLS):
            await pair.turn(number)
        async with App(redis_url) as app:
            for schedule in SCHEDULES:
                assert await app.queue("q").remove_schedule(schedule)
        await until(lambda: not (raw.llen("bull:q:wait") or raw.llen("bull:q:active")))
    finally:
        pair.end()
    for schedule, step in (("s", EVERY), ("c", SECOND)):
        found = runs(raw, schedule)
        once_each(found)
        unbroken(found, step)
    assert check(raw) == []


@pytest.mark.parametrize("survivor", ["toril", "node", "node5", "python"])
@pytest.mark.parametrize("repeat", [{"every": 600_000}, {"pattern": "*/10 * * * *"}], ids=str)
async def test_a_worker_died_before_it_had_added_the_next_run(
    library: Library, raw: Any, survivor: str, repeat: dict[str, Any]
) -> None:
    worker = library(survivor)
    await worker.act("schedule", "q", id="s", repeat=repeat, template=TEMPLATE)
    (run,) = raw.lrange("bull:q:wait", 0, -1) or raw.zrange("bull:q:delayed", 0, -1)
    raw.lrem("bull:q:wait", 0, run)
    raw.zrem("bull:q:delayed", run)
    raw.lpush("bull:q:active", run)
    raw.hset(f"bull:q:{run}", "ats", "1")
    raw.sadd("bull:q:stalled", run)
    await worker.worker("q", **OPTIONS)
    await until(lambda: raw.zscore("bull:q:completed", run) is not None)
    (following,) = raw.zrange("bull:q:delayed", 0, -1)
    assert int(following.split(":")[-1]) - int(run.split(":")[-1]) == 600_000
    await worker.reset()
