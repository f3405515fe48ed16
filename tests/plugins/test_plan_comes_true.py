"""A plan's answer is what sweeps then do: random queues, rules, holds and flows."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Sequence
from typing import Any

import pytest
from tests.support.place import Place, place

from toril import Flow, NewJob, Setting
from toril_plugins import Ceiling, Hold, Keep, Retention, hold
from toril_plugins.retention.planning import Plan, plan
from toril_plugins.retention.values import OUTCOMES

NAMES = ("do", "fail", "other")
KEEPS = (
    Keep("1h"), Keep("20h"), Keep("30h"), Keep("9d"), Keep(last=3), Keep("25h", last=4),
    Keep.nothing(), Keep.forever(), Keep("9d", logs="2h", data="26h"), Keep("3h", tombstone="2d"),
)  # fmt: skip
LIVE = (*KEEPS, Keep(last=2, key="name"), Keep(first=1, last=2), Keep("10h", last=1, key="data.c"))
CEILINGS = (Keep("2h"), Keep("40h"), Keep(last=5), Keep("5h", last=6))
FLOWS = (Keep("1h", flow=True), Keep("20h", flow=True), Keep("3d", flow=True))


def both(kind: type[Any], keep: Keep) -> Setting:
    made: Setting = kind(completed=keep, failed=keep)
    return made


async def fill(here: Place, chance: random.Random) -> None:
    """Finish jobs at several times, some of them by rules of their own, some in flows."""
    for _ in range(chance.randrange(2, 5)):
        for _ in range(chance.randrange(6)):
            said = [both(Retention, chance.choice(KEEPS))] if chance.random() < 0.4 else []
            job = NewJob(chance.choice(NAMES), {"c": chance.randrange(3)}, *said)
            await here.queue.add_many([job])
            here.clock.advance("1s")
            await here.run()
        if chance.random() < 0.7:
            children = [Flow("q", chance.choice(NAMES[::2])) for _ in range(chance.randrange(1, 4))]
            top = Flow("q", "do", children=children)
            await here.app.add_flow(top, both(Retention, chance.choice(FLOWS)))
            await here.run()
        here.clock.advance(f"{chance.randrange(1, 11)}h")


async def sweeps(here: Place, later: str = "0s") -> Counter[str]:
    """What goes until nothing more does, by rule."""
    here.removed.jobs.clear()
    here.clock.advance(later)
    for _ in range(6):
        assert await here.app.run_services("q")
    return Counter(str(rule) for _, rule in here.removed.jobs)


def told(planned: Plan, *, within_day: bool) -> Counter[str]:
    found: Counter[str] = Counter()
    for each in planned.going:
        found[each.rule] += each.within_day if within_day else each.now
    return +found


async def prepared(here: Place, chance: random.Random) -> Sequence[Any]:
    """A queue with jobs and perhaps holds; what is to be planned for it."""
    await fill(here, chance)
    # What has fallen due by rules of its own is gone before the plan.
    await sweeps(here)
    if chance.random() < 0.4:
        await hold(here.queue, Hold(name=chance.choice(NAMES), why="audit", who="eve"))
    settings: list[Any] = [both(Retention, chance.choice(LIVE))]
    if chance.random() < 0.4:
        settings.append(both(Ceiling, chance.choice(CEILINGS)))
    return settings


@pytest.mark.parametrize("seed", [22, 45, *range(12)])
async def test_what_goes_now(redis_url: str, seed: int) -> None:
    chance = random.Random(seed)
    async with place(redis_url) as here:
        settings = await prepared(here, chance)
        planned = await plan(here.queue, *settings)
        assert all(each.exact for each in planned.going)
        for setting in settings:
            await here.queue.set(setting)
        kept = {o: len(await here.kept(o)) for o in OUTCOMES}
        assert await sweeps(here) == told(planned, within_day=False), (settings, planned)
        left = {o: len(await here.kept(o)) for o in OUTCOMES}
        assert {o: kept[o] - planned.total(o) for o in OUTCOMES} == left


@pytest.mark.parametrize("seed", range(100, 106))
async def test_what_goes_within_a_day(redis_url: str, seed: int) -> None:
    chance = random.Random(seed)
    async with place(redis_url) as here:
        settings = await prepared(here, chance)
        for setting in settings:
            await here.queue.set(setting)
        planned = await plan(here.queue)
        gone = await sweeps(here)
        for _ in range(24):
            gone += await sweeps(here, "1h")
        assert gone == told(planned, within_day=True), (settings, planned)


@pytest.mark.parametrize("own", [True, False], ids=["job", "queue"])
async def test_tiers(redis_url: str, *, own: bool) -> None:
    tiers = Retention(completed=Keep("9d", logs="2h", data="26h"))
    async with place(redis_url) as here:
        if not own:
            await here.queue.set(tiers)
        await here.finish("a", "b", settings=[tiers] if own else [])
        here.clock.advance("3h")
        await here.finish("c", settings=[tiers] if own else [])
        level = "job" if own else "queue"

        async def numbers() -> dict[str, tuple[int, int]]:
            planned = await plan(here.queue)
            assert {each.rule.partition(":")[0] for each in planned.stripping} <= {level}
            return {each.tier: (each.now, each.within_day) for each in planned.stripping}

        assert await numbers() == {"logs": (2, 3), "data": (0, 2)}
        await here.sweep()
        assert await numbers() == {"logs": (0, 1), "data": (0, 2)}
        await here.sweep("23h")
        assert await numbers() == {"data": (0, 1)}
        await here.sweep("4h")
        assert await numbers() == {}


async def test_a_flow_over_two_queues_and_one_of_which_something_stays(redis_url: str) -> None:
    whole = Retention(completed=Keep("1h", flow=True))
    async with place(redis_url) as here:
        for top, kid in (("top1", "kid1"), ("top2", "kid2")):
            await here.app.add_flow(
                Flow("p", "do", id=top, children=[Flow("q", "do", id=kid)]), whole
            )
            await here.run()
            await here.app.worker("p", lambda _: None).run(burst=True)
        one = await hold(here.queue, Hold(id="kid2", why="audit", who="eve"))
        assert one.id == "kid2"
        for ahead in ("0s", "2h"):
            here.clock.advance(ahead)
            planned = await plan(here.queue)
            now = 1 if ahead == "2h" else 0
            assert [(each.now, each.within_day) for each in planned.going] == [(now, 1)]
            planned = await plan(here.app.queue("p"))
            assert [(each.now, each.within_day) for each in planned.going] == [(now, 1)]
            (staying,) = planned.staying
            assert staying.why == "something of its flow stays: job kid2 of queue q: held"
        assert await here.app.run_services("p")
        assert await here.kept() == {"kid2"}


async def test_a_big_queue_is_looked_at_in_part(redis_url: str) -> None:
    async with place(redis_url, Retention(completed=Keep(last=50))) as here:
        await here.queue.set(Retention(completed="1h"))
        await here.queue.add_many([NewJob("do") for _ in range(400)])
        await here.run_batches()
        here.clock.advance("2h")
        planned = await plan(here.queue, most=100)
        assert planned.looked == 100
        assert [(each.now, each.exact) for each in planned.going] == [(400, True)]
        assert 100 <= planned.going[0].bytes / 400 <= 1000
