"""A sweep is cut off at every boundary: the next one ends where an undisturbed one ends, nothing is
half removed meanwhile, and no removal is told twice or not at all.
"""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
import redis

from tests.crashes.scene import NOW, evicted, kept, noted, process, sound, sweep, time_passes, work
from tests.support.crashes import HOWS, How, Stored, at_each_boundary
from tests.support.place import foreign_finish
from toril import Flow, hookimpl
from toril.plugins import FinishedJob
from toril_plugins import Keep, Retention

MINUTE, HOUR = 60_000, 3_600_000
LATER = (NOW + MINUTE, NOW + MINUTE + 5000)
"""When others sweep: not before do they ask about what a dead process was asking about, and what
they find overdue then goes at the next sweep."""
MANY = 230
"""More than one slice removes, or one page shows."""


class Broken:
    """A strategy that cannot answer: its jobs are undecided."""

    @hookimpl
    def toril_plan_retention(self, job: FinishedJob) -> Keep | None:
        raise RuntimeError("not now")


async def prepare(url: str, raw: redis.Redis, many: int = MANY) -> None:
    """Something to do for each part of a sweep."""
    early = NOW - 2 * HOUR
    async with process(url, now=early) as app:
        queue = app.queue("q")
        hour, last = Retention(completed="1h", failed="1h"), Retention(completed=1)
        by_name = Retention(completed=Keep(last=1, key="name"))
        for settings in (hour, last, by_name):
            for _ in range(3):
                await queue.add("do", None, settings)
        await queue.add("fail", None, hour)
        tiers = Retention(completed=Keep("9h", logs="1m", data="30m"))
        await queue.add("do", {"secret": 1}, tiers, id="stripped")
        entombed = Retention(completed=Keep("1h", tombstone="30d"))
        await queue.add("do", None, entombed, id="entombed")
        child = Flow("q", "fail", None, Retention(failed=Keep.nothing()), id="awaited")
        await app.add_flow(Flow("p", "parent", children=[child]))
        await app.worker("q", work).run(burst=True)
    async with process(url, now=early, plugins=[Broken()]) as app:
        await app.queue("q").add("do", None, hour, id="undecided")
        await app.worker("q", work).run(burst=True)
    async with process(url, now=early) as app:
        for number in range(3):
            await app.queue("q").add("named", None, by_name, id=f"n{number}")
    raw.delete("bull:q:wait", "bull:q:marker")
    for number in range(3):
        fields: Any = {"finishedOn": early + number, "returnvalue": "1", "atm": 1, "ats": 1}
        raw.hset(f"bull:q:n{number}", mapping=fields)
        raw.zadd("bull:q:completed", {f"n{number}": early + number})
    option: Any = {"removeOnComplete": {"age": 60}}
    foreign_finish(raw, "f1", "f2", at=NOW - 5 * MINUTE, opts=option, returnvalue="1")
    option = {"removeOnFail": True}
    foreign_finish(
        raw, "f3", at=NOW - MINUTE, opts=option, state="failed", failedReason="x", data=1
    )
    ids = [f"m{number:03}" for number in range(many)]
    foreign_finish(raw, *ids, at=NOW - HOUR, returnvalue="1")
    async with process(url) as app:
        await app.queue("q").set(Retention(completed=7, failed="30m"))


@pytest.mark.parametrize("how", HOWS)
def test_a_sweep_that_is_cut_off(redis_url: str, raw: redis.Redis, how: How) -> None:
    asyncio.run(prepare(redis_url, raw))
    beginning = Stored(raw)
    asyncio.run(sweep(redis_url, times=(NOW, *LATER)))
    expected, left = kept(raw), noted(raw)
    assert len(expected["bull:q"]["completed"]) == 7 + 3  # two of a name of their own, `stripped`
    stripped = raw.hgetall("bull:q:stripped")
    assert stripped["data"] == "{ }"
    assert "tomb:@entombed" in left
    assert expected["bull:q"]["failed"] == ["awaited"]
    told = evicted(raw)
    sound(raw)

    beginning.put_back()
    crashes = 0
    for _ in at_each_boundary(raw, lambda: sweep(redis_url), how):
        crashes += 1
        sound(raw)
        time_passes(raw)
        asyncio.run(sweep(redis_url, times=LATER))
        assert kept(raw) == expected
        assert noted(raw) == left
        assert raw.hgetall("bull:q:stripped") == stripped
        assert evicted(raw) == told
        sound(raw)
    assert crashes > 10
