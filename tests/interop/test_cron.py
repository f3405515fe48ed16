"""Cron patterns name the same times here as in the parser that BullMQ for Node uses."""

from __future__ import annotations

import json
import os
import random
import subprocess
from datetime import UTC, datetime, timedelta

import pytest

from tests.support.driver import INTEROP
from tests.support.node import Node
from toril.cron import CronPattern

PATTERNS = (
    """
* * * * *|*/5 * * * *|0 * * * *|0 3 * * *|30 2 * * *|15 1 * * *|0 0 1 * *|0 0 31 * *|0 0 29 2 *
0 12 * * 1|0 12 * * 1-5|0 12 * * SUN|0 12 * * 7|0 0 * * 5-7|0 0 1 1 *|0 0 * jan-mar fri
*/10 * * * * *|5 4 3 2 1 *|0 0 12 * * *|*/15 30 1-3 * * *|0 0 L * *|0 0 * * 5L|0 0 * * 1#2
0 0 30 2 1
0 0 1,15 * 1|0 0 1 * 1#1|0 0 L * 5L|0 0 1L * *|@daily|@hourly|@weekly|@monthly|@yearly|@annually
@minutely|@secondly|@weekdays|@weekends|23 0-20/2 * * *|5/15 * * * *|0 2 * * *|30 1 * * *
0 */6 * * *|*/30 2 * * *|0 0 2 * * 0|0 2-3 * * *|30 0 * * *|15 0-1 * * *|0 0-23 * * *|20 */1 * * *
45 23 * * *|0 0 * * MON|10 0,1,2,3 * * *|0 1-5/2 * * *|59 1,2 * * *|0 3-23 * * *|0 0 28-31 * *
0,30 1 * * *|*/20 1-2 * * *|0 0 ? * 1|0 0 1 * ?|* * * *|0 9 1-7 * 1
""".replace("\n", "|")
    .strip("|")
    .split("|")
)

REFUSED = ["60 * * * *", "0 24 * * *", "0 0 * 13 *", "0 0 * * 8", "a b c d e", "50-10 * * * *",
           "0 0 15W * *", "0 0 * * * * *", "-5 * * * *", "*/0 * * * *", "0 0 * * *,1",
           "@reboot", "@midnight", "0 0 L-3 * *", "0 0 1 * 9", "0 0 32 * 1"]  # fmt: skip

#: When the clocks of a zone change, and a time at which those of none do.
CHANGES = {
    "UTC": ["2026-12-31T23:00"],
    "Asia/Kolkata": ["2026-02-28T18:30"],
    "Europe/Madrid": ["2026-03-29T01:00", "2026-10-25T01:00"],
    "Europe/London": ["2026-03-29T01:00", "2026-10-25T01:00"],
    "America/New_York": ["2026-03-08T07:00", "2026-11-01T06:00"],
    "America/Santiago": ["2026-09-06T04:00", "2026-04-05T03:00"],
    "Africa/Casablanca": ["2026-02-15T02:00", "2026-03-22T02:00"],
    "Africa/Cairo": ["2026-04-23T22:00", "2026-10-29T21:00"],
    "Australia/Sydney": ["2026-10-03T16:00", "2026-04-04T16:00"],
}
MINUTES = (-1500, -181, -120, -91, -61, -60, -59, -45, -30, -15, -1, 0, 1, 15, 30, 45, 59, 60, 61,
           90, 120, 180, 700)  # fmt: skip

Case = tuple[str, str, int]


def ask_node(node: Node, cases: list[Case]) -> list[int | str]:
    done = subprocess.run(
        [str(node.program), str(INTEROP / "node" / "cron.mjs")],
        input=json.dumps(cases),
        env={**os.environ, "TORIL_NODE_HOME": str(node.home)},
        capture_output=True,
        text=True,
        check=True,
    )
    answers: list[int | str] = json.loads(done.stdout)
    return answers


def around(change: str, minutes: int) -> int:
    moment = datetime.fromisoformat(change).replace(tzinfo=UTC) + timedelta(minutes=minutes)
    return round(moment.timestamp() * 1000)


def test_the_same_times_as_node(node: Node) -> None:
    everything = [
        (pattern, zone, around(change, minutes))
        for zone, changes in CHANGES.items()
        for change in changes
        for minutes in MINUTES
        for pattern in PATTERNS
    ]
    cases = random.sample(everything, 4000)
    cases += [(pattern, "UTC", around("2026-05-17T03:33", 0)) for pattern in PATTERNS]
    differing = [
        f"{pattern!r} in {zone} after {datetime.fromtimestamp(ms / 1000, UTC)}: "
        f"{CronPattern.parse(pattern, zone).after(ms)}, by Node {expected}"
        for (pattern, zone, ms), expected in zip(cases, ask_node(node, cases), strict=True)
        if CronPattern.parse(pattern, zone).after(ms) != expected
    ]
    assert differing == []


def test_what_node_refuses_is_refused(node: Node) -> None:
    now = around("2026-05-17T03:33", 0)
    answers = ask_node(node, [(pattern, "UTC", now) for pattern in REFUSED])
    assert [pattern for pattern, said in zip(REFUSED, answers, strict=True) if said == now] == []
    for pattern, said in zip(REFUSED, answers, strict=True):
        assert isinstance(said, str), f"Node takes {pattern!r}"
        with pytest.raises(ValueError, match="cron pattern"):
            CronPattern.parse(pattern, "UTC")


@pytest.mark.parametrize("pattern", ["H * * * *", "0 H * * *"])
def test_a_random_time_is_refused(pattern: str) -> None:
    with pytest.raises(ValueError, match="H is a random time in Node"):
        CronPattern.parse(pattern, "UTC")


@pytest.mark.parametrize("zone", ["Australia/Lord_Howe", "Antarctica/Troll", "America/Havana"])
def test_clocks_about_which_node_has_other_ideas(zone: str) -> None:
    with pytest.raises(ValueError, match=r"BullMQ takes other times"):
        CronPattern.parse("0 3 * * *", zone).check()


def test_a_zone_that_is_none() -> None:
    with pytest.raises(ValueError, match="time zone 'Mars/Olympus'"):
        CronPattern.parse("0 3 * * *", "Mars/Olympus")


def test_a_pattern_that_never_comes() -> None:
    with pytest.raises(ValueError, match="names no time"):
        CronPattern.parse("0 0 30 2 *", "UTC").after(0)
