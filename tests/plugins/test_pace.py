"""How large the slices of a sweep are, and how long it rests."""

from __future__ import annotations

import time

import pytest

from toril import App, ConfigurationError
from toril_plugins.cleanup.slices import LEAST_REST, Pace, Rests


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"slice": 0}, "slice must be between 1 and 100 jobs, not 0"),
        ({"slice": 101}, "slice must be between 1 and 100 jobs, not 101"),
        ({"rest": -1}, "rest must be between 0 and 1000 times"),
    ],
)
async def test_options_that_make_no_sense(
    redis_url: str, options: dict[str, float], said: str
) -> None:
    with pytest.raises(ConfigurationError, match=said):
        async with App(redis_url, config={"cleanup": options}):
            pass


async def rested(rests: Rests) -> float:
    """For how many times as long as 10 ms it rests."""
    started = time.perf_counter()
    await rests.after(started - 0.01)
    return (time.perf_counter() - started) / 0.01


async def test_it_rests_as_long_as_the_options_say() -> None:
    assert await rested(Rests(Pace(rest=3))) >= 3
    nothing = Rests(Pace(rest=0))
    nothing.note(1)
    nothing.note(2)
    assert await rested(nothing) < 3


async def test_it_rests_less_while_more_jobs_finish_than_go() -> None:
    rests = Rests(Pace(rest=40))
    for kept in range(1000, 1012):
        rests.note(kept)
    assert LEAST_REST <= await rested(rests) < 20
    for kept in range(1011, 900, -1):
        rests.note(kept)
    assert await rested(rests) >= 40
