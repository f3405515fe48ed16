"""explain: what holds, who said it, what it overrode, and what stands in the way."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest
import redis
from tests.support.place import Place, foreign_finish, place

from toril.plugins import Fact
from toril_plugins import Ceiling, Foreign, Hold, Requires, Retention, hold


@pytest.fixture
async def here(redis_url: str) -> AsyncIterator[Place]:
    async with place(redis_url, Retention(completed="9d")) as there:
        yield there


async def facts(here: Place, id: str) -> dict[str, list[Fact]]:
    job = await here.queue.get(id)
    assert job is not None
    found: dict[str, list[Fact]] = {}
    for fact in await job.explain():
        found.setdefault(fact.subject, []).append(fact)
    return found


async def test_every_level_that_spoke_is_named(here: Place) -> None:
    await here.queue.set(Retention(completed="7d"), source="eve")
    since = here.clock.now_ms()
    await here.queue.add("do", None, Retention(completed="1d"), id="a")
    await here.run(Retention(completed="8d"))
    told = await facts(here, "a")
    assert (told["rule"][0].text, told["rule"][0].level) == ("1d", "job")
    (said,) = told["said"]
    assert (said.text, said.level, said.at) == ("1d, by Queue.add", "job", since)
    assert [(each.level, each.text.partition(",")[0]) for each in told["overrode"]] == [
        ("queue", "7d"), ("worker", "8d"), ("application", "9d"),
    ]  # fmt: skip
    assert told["overrode"][0].text == "7d, by eve"
    assert told["foreign"][0].text.startswith("completed: told removeOnComplete = ")


async def test_before_it_ends_both_ends_are_told(here: Place) -> None:
    await here.queue.set(Retention(failed=5))
    await here.queue.set(Ceiling(failed="30d"))
    await here.queue.add("do", None, id="a")
    told = await facts(here, "a")
    assert told["if it fails"][0].text.startswith("last 5, by ")
    assert "30d" in told["ceiling"][0].text
    assert [each.text for each in told["foreign"]] == [
        f"{outcome}: not told; what they do is unknown" for outcome in ("completed", "failed")
    ]


async def test_processes_that_disagree(here: Place) -> None:
    await here.finish("a")
    await here.run(Retention(completed="1d"))
    await here.run(Retention(completed="2d"))
    told = await facts(here, "a")
    assert told["rule"][0].text == "2d"
    assert told["disagreement"][0].text.startswith("1d, by app.worker")


async def test_holds_and_required_plugins(here: Place) -> None:
    said = await hold(here.queue, Hold(id="a", why="audit", who="eve"))
    await here.queue.set(Requires("archive"))
    await here.finish("a")
    told = await facts(here, "a")
    assert told["hold"][0].text == f"held ({said.handle}) by eve: audit"
    assert "while it is held" in told["removal"][0].text
    assert "lacks archive" in told["requires"][0].text


async def test_an_isolated_job_tells_foreigners_something_that_nobody_said(
    here: Place, raw: redis.Redis
) -> None:
    await here.queue.set(Foreign("isolate"))
    await here.finish("a")
    told = await facts(here, "a")
    assert told["foreign"][0].text == "isolate"
    assert told["foreign"][1].text == ("completed: told removeOnComplete = False, for them only")
    assert told["rule"][0].level == "application"
    options: Any = {"removeOnComplete": {"age": 60}}
    foreign_finish(raw, "f", at=here.clock.now_ms(), opts=options)
    assert (await facts(here, "f"))["said"][0].text == "1m, by option removeOnComplete"
