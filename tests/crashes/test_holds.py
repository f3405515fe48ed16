"""Holding and releasing are cut off at every boundary, also while a sweep removes: what is held
when `hold` returns stays, what is released goes, and a job is never half of either.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
import redis

from tests.crashes.scene import NOW, kept, noted, process, sound, sweep, time_passes, work
from tests.support.crashes import HOWS, How, Stored, at_each_boundary
from toril import Queue
from toril_plugins import Hold, Holds, Keep, Retention, hold, release

HOUR = 3_600_000
LATER = (NOW + 60_000, NOW + 65_000)
CASE = Hold(name="case", why="a case")
EXHIBIT = Hold(id="exhibit", why="a case")


async def prepare(url: str) -> None:
    """Jobs that an hour's rule lets go, most of them those of a case; one has a rule of its own."""
    async with process(url, now=NOW - 2 * HOUR) as app:
        queue = app.queue("q")
        for number in range(130):
            await queue.add("case" if number % 2 else "do", None, id=f"j{number:03}")
        await queue.add("do", None, Retention(completed="90m"), id="exhibit")
        await queue.add("case", None, Retention(completed=Keep("1h", last=1)), id="own")
        await app.worker("q", work).run(burst=True)
        await queue.set(Retention(completed="1h"))


async def on_queue(url: str, act: Callable[[Queue], Awaitable[Any]]) -> None:
    async with process(url) as app:
        await act(app.queue("q"))


async def hold_both(queue: Queue) -> None:
    await hold(queue, CASE)
    await hold(queue, EXHIBIT)


async def release_both(queue: Queue) -> None:
    await release(queue, CASE)
    await release(queue, EXHIBIT)


def ids(raw: redis.Redis) -> set[str]:
    return {job_id for each in kept(raw)["bull:q"].values() for job_id in each}


def of_case(all_ids: set[str]) -> set[str]:
    """Those that are held."""
    numbered = {each for each in all_ids if each[1:].isdecimal()}
    return {each for each in numbered if int(each[1:]) % 2} | {"own", "exhibit"}


@pytest.mark.parametrize("how", HOWS)
def test_a_hold_that_is_cut_off(redis_url: str, raw: redis.Redis, how: How) -> None:
    asyncio.run(prepare(redis_url))
    case = of_case(ids(raw))
    assert len(case) == 67
    crashes = 0
    for _ in at_each_boundary(raw, lambda: on_queue(redis_url, hold_both), how):
        crashes += 1
        sound(raw)
        time_passes(raw)
        asyncio.run(on_queue(redis_url, hold_both))
        asyncio.run(sweep(redis_url, times=LATER))
        assert ids(raw) == case
        sound(raw)
        asyncio.run(on_queue(redis_url, release_both))
        asyncio.run(sweep(redis_url, times=LATER))
        assert ids(raw) == set()
        assert noted(raw) == {}
        sound(raw)
    assert crashes > 4


@pytest.mark.parametrize("how", HOWS)
def test_a_release_that_is_cut_off(redis_url: str, raw: redis.Redis, how: How) -> None:
    asyncio.run(prepare(redis_url))
    case = of_case(ids(raw))
    asyncio.run(on_queue(redis_url, hold_both))
    crashes = 0
    for _ in at_each_boundary(raw, lambda: on_queue(redis_url, release_both), how):
        crashes += 1
        assert ids(raw) >= case
        sound(raw)
        time_passes(raw)
        asyncio.run(on_queue(redis_url, release_both))
        asyncio.run(sweep(redis_url, times=LATER))
        assert ids(raw) == set()
        assert noted(raw) == {}
        sound(raw)
    assert crashes > 4


@pytest.mark.parametrize("how", HOWS)
def test_a_sweep_with_holds_that_is_cut_off(redis_url: str, raw: redis.Redis, how: How) -> None:
    """The holds are known, and what they hold has to be looked for."""
    asyncio.run(prepare(redis_url))
    case = of_case(ids(raw))

    async def say_holds(queue: Queue) -> None:
        await queue.change(Holds, lambda _: Holds(CASE, EXHIBIT))

    asyncio.run(on_queue(redis_url, say_holds))
    beginning = Stored(raw)
    asyncio.run(sweep(redis_url, times=LATER))
    assert ids(raw) == case
    left = noted(raw)

    beginning.put_back()
    crashes = 0
    for _ in at_each_boundary(raw, lambda: sweep(redis_url), how):
        crashes += 1
        assert ids(raw) >= case
        sound(raw)
        time_passes(raw)
        asyncio.run(sweep(redis_url, times=LATER))
        assert ids(raw) == case
        assert noted(raw) == left
        sound(raw)
    assert crashes > 10


def test_a_hold_that_is_said_at_any_moment_of_a_sweep(redis_url: str, raw: redis.Redis) -> None:
    """What was there when `hold` returned stays, however far the sweep had come; it goes on."""
    asyncio.run(prepare(redis_url))
    case = of_case(ids(raw))
    moments = set[int]()
    for _ in at_each_boundary(raw, lambda: sweep(redis_url), "killed before"):
        # The dead sweeper's lease stands; another one does not begin before it ends.
        asyncio.run(on_queue(redis_url, hold_both))
        there = ids(raw) & case
        moments.add(len(there))
        sound(raw)
        time_passes(raw)
        asyncio.run(sweep(redis_url, times=LATER))
        assert ids(raw) == there
        sound(raw)
    assert min(moments) < 30
    assert max(moments) == len(case)
