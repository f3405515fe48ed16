"""What is done with schedules is cut off at every boundary: a schedule has its one next run whoever
died, and what is done again ends where an undisturbed process ends.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, Final, cast

import pytest
import redis

from tests.crashes.scene import NOW, process, sound, sweep, time_passes, work
from tests.crashes.test_finish import recover
from tests.support.crashes import HOWS, How, Stored, at_each_boundary
from toril import Cron, Every, Queue
from toril_plugins import Keep, Retention

MINUTE: Final = 60_000
LATER: Final = NOW + 10 * MINUTE
SAID: Final = (("every", Every("10m")), ("cron", Cron("*/10 * * * *", immediately=True)))
Act = Callable[[Queue], Awaitable[Any]]


async def say(queue: Queue) -> None:
    for id, pace in SAID:
        await queue.schedule(id, pace, "do", {"n": 1}, Retention(completed=Keep(last=2)))


async def say_otherwise(queue: Queue) -> None:
    await queue.schedule("every", Every("20m"), "do", {"n": 2})
    await queue.schedule("cron", Cron("*/20 * * * *"), "do", {"n": 2})


async def pause(queue: Queue) -> None:
    for id, _ in SAID:
        await queue.pause_schedule(id)


async def pause_and_resume(queue: Queue) -> None:
    await pause(queue)
    for id, _ in SAID:
        await queue.resume_schedule(id)


async def remove(queue: Queue) -> None:
    for id, _ in SAID:
        await queue.remove_schedule(id)


async def on_queue(url: str, act: Act, now: int = NOW) -> None:
    async with process(url, now=now) as app:
        await act(app.queue("q"))


async def work_off(url: str, now: int = NOW) -> None:
    async with process(url, now=now) as app:
        await app.worker("q", work, concurrency=2, max_stalled=1000).run(burst=True)


def stored(raw: redis.Redis) -> dict[str, Any]:
    """The schedules, and every run with where it is."""
    found: dict[str, Any] = {}
    for id, due in cast(
        "list[tuple[str, float]]", raw.zrange("bull:q:repeat", 0, -1, withscores=True)
    ):
        found[id] = (due, raw.hgetall(f"bull:q:repeat:{id}"))
    for place in ("delayed", "completed"):
        for id in cast("list[str]", raw.zrange(f"bull:q:{place}", 0, -1)):
            found[id] = place
    for place in ("wait", "active"):
        for id in cast("list[str]", raw.lrange(f"bull:q:{place}", 0, -1)):
            found[id] = place
    return found


@pytest.mark.parametrize("how", HOWS)
@pytest.mark.parametrize(
    ("before", "act"),
    [
        ((), say),
        ((say,), say),
        ((say,), say_otherwise),
        ((say,), pause),
        ((say, pause), pause_and_resume),
        ((say,), remove),
    ],
    ids=["said", "said again", "said otherwise", "paused", "resumed", "removed"],
)
def test_an_operation_that_is_cut_off(
    redis_url: str, raw: redis.Redis, how: How, before: tuple[Act, ...], act: Act
) -> None:
    for each in before:
        asyncio.run(on_queue(redis_url, each))
    asyncio.run(work_off(redis_url))  # so that there is a run to come
    beginning = Stored(raw)
    asyncio.run(on_queue(redis_url, act, NOW + MINUTE))
    asyncio.run(on_queue(redis_url, act, NOW + MINUTE))
    expected = stored(raw)

    beginning.put_back()
    crashes = 0
    for _ in at_each_boundary(raw, lambda: on_queue(redis_url, act, NOW + MINUTE), how):
        crashes += 1
        sound(raw)
        one_to_come(raw)
        time_passes(raw)
        asyncio.run(on_queue(redis_url, act, NOW + MINUTE))
        assert stored(raw) == expected
        sound(raw)
    assert crashes >= 2


def one_to_come(raw: redis.Redis) -> None:
    """There are the runs that the schedules name, unless they are paused, and no others."""
    named = {
        f"repeat:{id}:{due:.0f}"
        for id, due in cast(
            "list[tuple[str, float]]", raw.zrange("bull:q:repeat", 0, -1, withscores=True)
        )
        if not raw.hexists(f"bull:q:repeat:{id}", "toril.paused")
    }
    runs = {id for id, place in stored(raw).items() if place in ("delayed", "wait")}
    assert runs == named


@pytest.mark.parametrize("how", HOWS)
def test_a_worker_that_adds_the_next_run_is_cut_off(
    redis_url: str, raw: redis.Redis, how: How
) -> None:
    asyncio.run(on_queue(redis_url, say))
    beginning = Stored(raw)

    async def work() -> None:
        await work_off(redis_url)

    asyncio.run(work())
    asyncio.run(sweep(redis_url))
    expected = stored(raw)
    assert sorted(expected.values(), key=str)[-4:] == ["completed"] * 2 + ["delayed"] * 2

    beginning.put_back()
    crashes = 0
    for _ in at_each_boundary(raw, work, how):
        crashes += 1
        sound(raw)
        time_passes(raw)
        asyncio.run(recover(redis_url))
        asyncio.run(work())
        asyncio.run(sweep(redis_url))
        assert stored(raw) == expected
        sound(raw, at_rest=True)
    assert crashes > 5


@pytest.mark.parametrize("how", HOWS)
def test_a_run_now_that_is_cut_off(redis_url: str, raw: redis.Redis, how: How) -> None:
    """It is added once, or not at all; the series takes no notice."""
    asyncio.run(on_queue(redis_url, say))
    asyncio.run(work_off(redis_url))

    async def run_now(queue: Queue) -> None:
        await queue.run_schedule("every")

    before = stored(raw)
    waiting: list[int] = []
    for _ in at_each_boundary(raw, lambda: on_queue(redis_url, run_now), how):
        sound(raw)
        added = {id for id in stored(raw) if id not in before}
        assert {id: place for id, place in stored(raw).items() if id not in added} == before
        waiting.append(len(added))
        time_passes(raw)
        asyncio.run(work_off(redis_url))
        assert all(stored(raw)[id] == "completed" for id in added)
        sound(raw)
    assert set(waiting) <= {0, 1}
    assert (1 in waiting) == (how != "killed before")
