"""A schedule is stored alike whether BullMQ for Node or Toril was told of it, for every combination
of what can be said, also where something else was said before.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterator
from itertools import product
from typing import Any, Final, cast

import pytest
import redis

from tests.conftest import Library
from tests.support.driver import Driver
from tests.worker.conftest import until

HOUR: Final = 3_600_000
Options = tuple[dict[str, Any], ...]
SOON: Final = 60_000
"""What is so near is the time of the call, in ms; so much nearer than what is said, too."""
TEMPLATE: Final = {"name": "tick", "data": {"n": 1}, "opts": {"attempts": 2, "priority": 3}}


def paces(now: int) -> Iterator[dict[str, Any]]:
    """Every combination; times are hours away."""
    hour = now // HOUR * HOUR
    starts: Options = ({}, {"startDate": hour + 5 * HOUR}, {"startDate": hour - 5 * HOUR})
    ends: Options = ({}, {"endDate": hour + 5000 * HOUR})
    limits: Options = ({}, {"limit": 1}, {"limit": 3})
    intervals: Options = ({"every": HOUR}, {"every": 7 * HOUR, "offset": 2 * HOUR})
    for said in product(intervals, starts, ends, limits):
        yield _merged(said)
    patterns: Options = (
        {"pattern": "0 0 3 * * *"},
        {"pattern": "@daily"},
        {"pattern": "15 3 * * 1-5"},
    )
    zones: Options = ({}, {"tz": "America/New_York"})
    for chosen in product(patterns, (*starts, {"immediately": True}), ends, limits[1:], zones):
        yield _merged(chosen)


def _merged(said: Options) -> dict[str, Any]:
    return {name: value for each in said for name, value in each.items()}


def stored(raw: redis.Redis, now: int) -> dict[str, Any]:
    """All keys of schedules and their runs; the time of the call is 0."""

    def plain(text: str) -> str:
        def near(found: re.Match[str]) -> str:
            return "0" if abs(int(found[0]) - now) < SOON else found[0]

        return re.sub(r"\b\d{13}\b", near, text)

    found: dict[str, Any] = {}
    for key in cast("list[str]", list(raw.scan_iter("bull:q:*"))):
        kind = raw.type(key)
        value: Any = None
        if kind == "hash" and not key.endswith(":meta"):
            value = dict(cast("dict[str, str]", raw.hgetall(key)))
            opts = json.loads(value.pop("opts", "{}"))
            for name in ("timestamp", "delay"):
                opts.pop(name, None)
                value.pop(name, None)
            value["opts"] = dict(sorted(opts.items()))
            if "offset" in value and int(value["offset"]) % HOUR:
                value["offset"] = "0"  # an interval that begins at once
        elif kind == "zset" and key.endswith(":repeat"):
            value = [f"{id} {due:.0f}" for id, due in _scores(raw, key)]
        elif kind == "zset":
            value = [id for id, _ in _scores(raw, key)]
        elif kind == "list":
            value = raw.lrange(key, 0, -1)
        found[plain(key)] = json.loads(plain(json.dumps(value)))
    return found


def _scores(raw: redis.Redis, key: str) -> list[tuple[str, float]]:
    return cast("list[tuple[str, float]]", raw.zrange(key, 0, -1, withscores=True))


async def told(driver: Driver, raw: redis.Redis, *said: dict[str, Any]) -> dict[str, Any]:
    """What is there when this has been said, one after the other."""
    raw.flushall()
    for each in said:
        await driver.act("schedule", "q", id="s", repeat=each, template=TEMPLATE)
    found = stored(raw, round(time.time() * 1000))
    return {key: value for key, value in found.items() if not key.endswith((":events", ":id"))}


async def alike(library: Library, raw: redis.Redis, *said: dict[str, Any]) -> None:
    """Both libraries leave the same; a time may come between the two, but not twice."""
    before = await told(library("node"), raw, *said)
    ours = await told(library("toril"), raw, *said)
    if ours != before:
        assert ours == await told(library("node"), raw, *said), said


async def test_whatever_is_said(library: Library, raw: redis.Redis) -> None:
    said = list(paces(round(time.time() * 1000)))
    assert len(said) > 100
    for each in said:
        await alike(library, raw, each)


@pytest.mark.parametrize("number", range(8))
async def test_whatever_was_said_before(library: Library, raw: redis.Redis, number: int) -> None:
    hour = round(time.time() * 1000) // HOUR * HOUR
    said: list[dict[str, Any]] = [
        {"every": HOUR},
        {"every": 7 * HOUR, "offset": 2 * HOUR},
        {"every": 7 * HOUR, "offset": 3 * HOUR},
        {"every": 5 * HOUR, "startDate": hour + 5 * HOUR},
        {"every": 7 * HOUR, "limit": 2},
        {"pattern": "0 0 3 * * *"},
        {"pattern": "0 0 4 * * *", "startDate": hour + 500 * HOUR},
        {"pattern": "0 0 3 * * *", "tz": "America/New_York", "limit": 3},
    ]
    for after in said:
        await alike(library, raw, said[number], after)


@pytest.mark.parametrize("name", ["node", "toril"])
async def test_a_pattern_stops_at_its_end(library: Library, raw: redis.Redis, name: str) -> None:
    """No run is due behind the end, whoever carries the schedule on."""
    driver = library(name)
    end = (round(time.time() * 1000) // 1000 + 3) * 1000
    repeat = {"pattern": "* * * * * *", "tz": "UTC", "endDate": end}
    await driver.act("schedule", "q", id="s", repeat=repeat, template=TEMPLATE)
    worker = await driver.worker("q")

    def over() -> bool:
        left = raw.zcard("bull:q:delayed"), raw.llen("bull:q:wait"), raw.llen("bull:q:active")
        return raw.exists("bull:q:completed") == 1 and not any(left)

    try:
        await until(over)
    finally:
        await driver.worker_close(worker)
    ran = cast("list[str]", raw.zrange("bull:q:completed", 0, -1))
    assert max(int(id.rpartition(":")[2]) for id in ran) <= end
