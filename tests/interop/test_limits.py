"""Limits of one queue kept together by worker processes of several libraries.

What happened is read from the queue's event stream: its order is that of the server's steps, and
its ids are the server's time.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from itertools import pairwise
from typing import Any, Final, NamedTuple, TypeVar, cast

import pytest
import redis

from tests.interop.conftest import Library
from tests.support.driver import Driver, TorilDriver
from tests.support.server import Server

DEADLINE: Final = 30.0  # seconds
LOST_WAKE: Final = 3000
"""A worker that nobody woke looks after 5 seconds; in ms, with room for a busy machine."""
CROWDS: Final = [("toril", "toril"), ("node", "toril"), ("node", "toril", "python")]
EACH: Final = {"concurrency": 5}

Crowd = Callable[..., Awaitable[list[Driver]]]
T = TypeVar("T")


class Event(NamedTuple):
    at: int
    """By the server's clock, in ms."""
    name: str
    id: str
    prev: str


@pytest.fixture
async def crowd(library: Library, server: Server, redis_url: str) -> AsyncIterator[Crowd]:
    """Get processes of these libraries; two of one name are two processes."""
    used: list[Driver] = []
    own: list[Driver] = []

    async def get(*names: str) -> list[Driver]:
        for name in names:
            driver = library(name)
            if name == "toril":
                driver = TorilDriver(redis_url)
                own.append(driver)
            used.append(driver)
        return used

    yield get
    for driver in used:
        if driver not in own:
            await driver.reset()
    for driver in own:
        if driver.process.poll() is None:
            driver.kill()


def events(raw: redis.Redis) -> list[Event]:
    found = cast("list[tuple[str, dict[str, str]]]", raw.xrange("bull:q:events"))
    return [
        Event(int(at.split("-")[0]), told["event"], told.get("jobId", ""), told.get("prev", ""))
        for at, told in found
    ]


async def add(driver: Driver, count: int, *steps: list[Any]) -> None:
    jobs = [{"name": f"j{n}", "data": {"do": list(steps)}, "opts": {}} for n in range(count)]
    await driver.add_bulk("q", jobs)


async def eventually(look: Callable[[], T]) -> T:
    """What `look` returns, once that is anything."""
    deadline = time.monotonic() + DEADLINE
    while not (seen := look()):
        assert time.monotonic() < deadline, "it did not happen"
        await asyncio.sleep(0.005)
    return seen


async def all_done(raw: redis.Redis, count: int) -> list[Event]:
    """The events, once so many jobs have completed, each of them once."""
    await eventually(lambda: raw.zcard("bull:q:completed") == count)
    assert not raw.exists("bull:q:wait", "bull:q:active", "bull:q:failed", "bull:q:delayed")
    told = events(raw)
    ended = Counter(event.id for event in told if event.name == "completed")
    assert len(ended) == count
    assert set(ended.values()) == {1}
    return told


def at_once(told: list[Event]) -> list[tuple[int, int]]:
    """How many jobs were active from which time on."""
    active, found = 0, [(told[0].at, 0)]
    for event in told:
        if event.name == "active":
            active += 1
        elif event.prev == "active":
            active -= 1
        found.append((event.at, active))
    return found


def windows(times: list[int], per: int) -> list[list[int]]:
    """The times, window by window: one begins with the first time after the one before."""
    found: list[list[int]] = []
    for at in times:
        # By its last millisecond the key may have expired or not.
        if found and at < found[-1][0] + per - 1:
            found[-1].append(at)
        else:
            found.append([at])
    return found


def worked(raw: redis.Redis) -> Counter[str]:
    """How many jobs each worker ran, by its name; BullMQ for Python writes none."""
    keys = cast("list[str]", raw.zrange("bull:q:completed", 0, -1))
    return Counter(str(raw.hget(f"bull:q:{id}", "pb")) for id in keys)


@pytest.mark.parametrize("names", CROWDS, ids="-".join)
async def test_never_more_at_once_than_the_queue_allows(
    crowd: Crowd, raw: redis.Redis, names: tuple[str, ...]
) -> None:
    drivers = await crowd(*names)
    await drivers[0].call("concurrency", queue="q", value=3)
    for number, driver in enumerate(drivers):
        await driver.worker("q", name=f"w{number}", concurrency=2)
    await add(drivers[-1], 60, ["sleep", 10], ["return", 1])
    told = await all_done(raw, 60)
    story = at_once(told)
    assert max(active for _, active in story) == 3
    busy = story[: next(n for n in reversed(range(len(story))) if story[n][1] == 3)]
    below = [
        after - at
        for (at, active), (after, _) in pairwise(busy)
        if active < 3 and at != story[0][0]
    ]
    assert max(below, default=0) < LOST_WAKE, "a job waited although there was room"
    assert len(worked(raw)) > 1, "they worked together"


@pytest.mark.parametrize("names", CROWDS, ids="-".join)
@pytest.mark.parametrize("said", ["by the queue", "by the workers"])
async def test_never_more_begin_within_a_window(
    crowd: Crowd, raw: redis.Redis, names: tuple[str, ...], said: str
) -> None:
    drivers = await crowd(*names)
    limit = {"max": 5, "duration": 200}
    if said == "by the queue":
        await drivers[-1].call("rate_limit", queue="q", **limit)
    opts: dict[str, Any] = {} if said == "by the queue" else {"limiter": limit}
    await add(drivers[0], 40, ["sleep", 1], ["return", 1])
    for number, driver in enumerate(drivers):
        await driver.worker("q", name=f"w{number}", **EACH, **opts)
    told = await all_done(raw, 40)
    found = windows([event.at for event in told if event.name == "active"], 200)
    assert [len(window) for window in found] == [5] * 8
    gaps = [after[0] - before[0] - 200 for before, after in pairwise(found)]
    assert max(gaps) < 1000, "a window began late"


@pytest.mark.parametrize(
    ("asking", "beside"), [("toril", "node"), ("node", "toril"), ("toril", "toril")]
)
async def test_all_wait_when_a_handler_says_so(
    crowd: Crowd, raw: redis.Redis, asking: str, beside: str
) -> None:
    first, second = await crowd(asking, beside)
    opts = {**EACH, "limiter": {"max": 1000, "duration": 1000}}
    await second.add("other", "up")  # it is there before the limit is
    await first.add("q", "asks", {"do": [["rate-limit", 1000], ["return", 1]]})
    await first.worker("q", **opts)
    asked = await eventually(lambda: [each for each in events(raw) if each.prev == "active"])
    await second.worker("q", **opts)
    await add(second, 20, ["return", 1])
    told = await all_done(raw, 21)
    begun = [event.at for event in told if event.name == "active"]
    assert begun[1] - asked[0].at > 980, "somebody did not wait"
    assert begun[1] - asked[0].at < 1000 + 1000, "somebody waited longer than needed"
    assert raw.hget(f"bull:q:{asked[0].id}", "atm") == "1", "it counted as no attempt"


async def test_a_killed_process_gives_its_places_back(
    crowd: Crowd, raw: redis.Redis, redis_url: str
) -> None:
    node, toril = await crowd("node", "toril")
    opts = {**EACH, "lockDuration": 500, "stalledInterval": 300, "maxStalledCount": 5}
    await node.call("concurrency", queue="q", value=2)
    await add(node, 6, ["sleep", 300], ["return", 1])
    await toril.worker("q", **opts)
    await eventually(lambda: raw.llen("bull:q:active") == 2)
    toril.kill()
    await node.worker("q", **opts)
    told = await all_done(raw, 6)
    assert max(active for _, active in at_once(told)) == 2
