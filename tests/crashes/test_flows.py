"""The removal of flows as a whole, over several queues, is cut off at every boundary: no
parent goes before its children, nothing of another flow goes, and whoever goes on removes the rest.
"""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
import redis

from tests.crashes.scene import NOW, kept, process, sound, sweep, time_passes, work
from tests.support.crashes import HOWS, How, at_each_boundary
from toril import Flow
from toril_plugins import Keep, Retention

HOUR = 3_600_000
LATER = (NOW + 60_000, NOW + 120_000)
WIDTH = 110
NAMES = ("goes", "open", "stays")
KEPT = Retention(completed=Keep.forever(), failed=Keep.forever())
WHOLE = Retention(completed=Keep("1h", flow=True), failed=Keep("1h", flow=True))


def tree(name: str, **of_root: Any) -> Flow:
    """A root in p, many children in q, of which one failed, and below one of them some in r."""
    below = [Flow("r", "do", None, id=f"{name}.0.{n}") for n in range(3)]
    children = [
        Flow("q", "do", None, id=f"{name}.0", children=below),
        Flow("q", "fail", None, id=f"{name}.1", on_failure="ignore"),
        *(Flow("q", "do", None, id=f"{name}.{n}") for n in range(2, WIDTH)),
    ]
    return Flow("p", "do", None, id=name, children=children, **of_root)


async def prepare(url: str) -> None:
    """A tree whose time has come, one that is not through, and one that is to stay."""
    async with process(url, now=NOW - 2 * HOUR) as app:
        await app.add_flow(tree("goes"), WHOLE)
        await app.add_flow(tree("open", delay="9d"), WHOLE)
        await app.add_flow(tree("stays"), KEPT)
        for queue in ("r", "q", "p"):
            await app.worker(queue, work, concurrency=50).run(burst=True)


def left_of(raw: redis.Redis, name: str) -> set[str]:
    """The ids of a tree that are there."""
    ids = {job_id for queue in kept(raw).values() for each in queue.values() for job_id in each}
    return {job_id for job_id in ids if job_id.partition(".")[0] == name}


@pytest.mark.parametrize("how", HOWS)
def test_a_removal_that_is_cut_off(redis_url: str, raw: redis.Redis, how: How) -> None:
    asyncio.run(prepare(redis_url))
    whole = {name: left_of(raw, name) for name in NAMES}
    assert {len(ids) for ids in whole.values()} == {WIDTH + 4}
    crashes, halves = 0, 0
    for _ in at_each_boundary(raw, lambda: sweep(redis_url, "p"), how):
        crashes += 1
        for name in NAMES:
            left = left_of(raw, name)
            assert {job_id.rpartition(".")[0] for job_id in left} - {""} <= left, "leaves first"
            halves += 0 < len(left) < len(whole[name])
        sound(raw)
        time_passes(raw)
        asyncio.run(sweep(redis_url, "p", times=LATER))
        assert left_of(raw, "goes") == set()
        assert left_of(raw, "open") == whole["open"]
        assert left_of(raw, "stays") == whole["stays"]
        sound(raw)
    assert crashes > 10
    assert halves > 2, "some died with half of a tree removed"
