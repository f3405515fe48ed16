"""A rescue is cut off at every boundary: each parent fails once, with all that stands above it."""

from __future__ import annotations

import asyncio

import pytest
import redis

from tests.crashes.scene import NOW, kept, process, sound, sweep, time_passes, work
from tests.crashes.test_finish import ends
from tests.support.crashes import HOWS, How, at_each_boundary
from toril import Flow
from toril_plugins import Keep, Retention

GRACE_MS = 61_000
QUEUES = ("q", "g")
"""Nobody serves the one of the parents."""


async def prepare(url: str) -> None:
    """Three parents without a worker, one of them a child itself; one is not to be kept."""
    async with process(url) as app:
        for name, keep in (("one", Keep.forever()), ("two", Keep.nothing())):
            child = Flow("q", "fail", on_failure="fail", id=f"{name}-child")
            parent = Flow("p", "parent", None, Retention(failed=keep), children=[child], id=name)
            await app.add_flow(parent)
        leaf = Flow("q", "fail", on_failure="fail", id="leaf")
        middle = Flow("p", "middle", children=[leaf], on_failure="fail", id="middle")
        await app.add_flow(Flow("g", "root", children=[middle], id="root"))
        await app.worker("q", work).run(burst=True)


async def rescue(url: str, rounds: int = 1) -> None:
    """What the queues' services do when the grace time has passed so many times."""
    await sweep(url, *QUEUES, times=[NOW + n * GRACE_MS for n in range(1, rounds + 1)])


@pytest.mark.parametrize("how", HOWS)
def test_a_rescue_that_is_cut_off(redis_url: str, raw: redis.Redis, how: How) -> None:
    asyncio.run(prepare(redis_url))
    crashes = 0
    for _ in at_each_boundary(raw, lambda: rescue(redis_url), how):
        crashes += 1
        sound(raw)
        time_passes(raw)
        asyncio.run(rescue(redis_url, rounds=4))
        left = kept(raw)
        assert left["bull:p"] == {"failed": ["middle", "one"]}
        assert left["bull:g"] == {"failed": ["root"]}
        assert [ends(raw)["p", each] for each in ("one", "two", "middle")] == [1, 1, 1]
        asyncio.run(sweep(redis_url, "p", times=[NOW + 9 * GRACE_MS]))
        assert not raw.keys("bull:*:toril:deferred")
        sound(raw, at_rest=True)
    assert crashes > 10
