"""A worker is cut off at every boundary of its work: whoever goes on ends where an undisturbed one
ends, each job ends once, and none that is to be kept goes.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import cast

import pytest
import redis

from tests.crashes.scene import NOW, kept, noted, process, run, sound, sweep, time_passes
from tests.support.crashes import HOWS, How, Stored, at_each_boundary
from toril import App, Flow
from toril.protocol.locking import stalled_check
from toril_plugins import Keep, Retention

QUEUES = ("q", "p")


async def prepare(app: App) -> None:
    """Jobs of every kind of end."""
    queue = app.queue("q")
    await queue.set(Retention(completed=3))
    for number in range(7):
        await queue.add("do", number)
    for keep in (Keep.nothing(), Keep(age="1h"), Keep.forever()):
        await queue.add("do", None, Retention(completed=keep), id=str(keep).replace(" ", "-"))
    await queue.add("fail", None, Retention(failed=Keep.nothing()))
    nothing = Retention(completed=Keep.nothing())
    child = Flow("q", "do", None, nothing, id="child")
    await app.add_flow(Flow("p", "parent", children=[child], id="released"))
    child = Flow("q", "fail", on_failure="fail", id="fails-it")
    await app.add_flow(Flow("p", "parent", children=[child], id="doomed"))
    child = Flow("q", "fail", id="blocks-it")
    await app.add_flow(Flow("p", "parent", children=[child], id="waits"))


async def prepare_at(url: str) -> None:
    async with process(url) as app:
        await prepare(app)


async def recover(url: str) -> None:
    """The two checks after which what a dead worker held can be run again."""
    async with process(url) as app:
        for queue in QUEUES * 2:
            key = app.context.key(queue)
            check = stalled_check(
                key, now=NOW, interval_ms=1, max_stalled=1000, wants=app.runtime.dispatcher.wants
            )
            await app.perform(check)
            await asyncio.sleep(0.002)


def ends(raw: redis.Redis) -> Counter[tuple[str, str]]:
    """How often the events say that each job ended."""
    told: Counter[tuple[str, str]] = Counter()
    for queue in QUEUES:
        entries = cast("list[tuple[str, dict[str, str]]]", raw.xrange(f"bull:{queue}:events"))
        for _, event in entries:
            if event["event"] in ("completed", "failed"):
                told[queue, event["jobId"]] += 1
    return told


def shape(raw: redis.Redis) -> dict[str, list[str]]:
    """Who is left and, where it is a matter of order who stays, how many."""
    found: dict[str, list[str]] = {}
    for queue, states in kept(raw).items():
        for state, ids in states.items():
            named = [job_id for job_id in ids if len(job_id) != 16]
            found[f"{queue} {state}"] = [*named, f"{len(ids)} in all"]
    return found


@pytest.mark.parametrize("how", HOWS)
def test_work_that_is_cut_off(redis_url: str, raw: redis.Redis, how: How) -> None:
    asyncio.run(prepare_at(redis_url))
    beginning = Stored(raw)

    async def work() -> None:
        await run(redis_url, *QUEUES, concurrency=3)

    asyncio.run(work())
    asyncio.run(sweep(redis_url))
    expected, left, ended = shape(raw), noted(raw), ends(raw)
    assert expected == {
        "bull:q completed": ["1h", "for-ever", "5 in all"],
        "bull:q failed": ["blocks-it", "fails-it", "2 in all"],
        "bull:p completed": ["released", "1 in all"],
        "bull:p failed": ["doomed", "1 in all"],
        "bull:p waiting-children": ["waits", "1 in all"],
    }
    assert set(ended.values()) == {1}

    beginning.put_back()
    crashes = 0
    for _ in at_each_boundary(raw, work, how):
        crashes += 1
        sound(raw)
        time_passes(raw)
        asyncio.run(recover(redis_url))
        asyncio.run(work())
        asyncio.run(sweep(redis_url))
        assert (shape(raw), noted(raw), ends(raw)) == (expected, left, ended)
        sound(raw, at_rest=True)
    assert crashes > 10
