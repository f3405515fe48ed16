"""Random traces leave the same data after every step, and get the same replies.

The suite plays the same 200 of 30 steps each time; `TORIL_MODEL=long pytest tests/differential`
plays 2,000 others. A trace that fails is not made smaller, which would take minutes: its last steps
tell enough.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator

import pytest
import redis
from hypothesis import HealthCheck, Phase, given, settings

from tests.differential.duel import Different, Duel
from tests.differential.exceptions import documented
from tests.differential.sides import NodeSide, TorilSide
from tests.differential.steps import Step, traces
from tests.support.driver import ROOT
from tests.support.node import Node
from tests.support.server import Server

LENGTH = 30
LONG = os.environ.get("TORIL_MODEL") == "long"
TRACES = settings(
    max_examples=2000 if LONG else 200,
    derandomize=not LONG,
    phases=[Phase.generate],
    deadline=None,
    database=None,
    suppress_health_check=(HealthCheck.too_slow, HealthCheck.data_too_large),
    report_multiple_bugs=False,
)


@pytest.fixture(scope="module")
def sides(node: Node) -> Iterator[tuple[asyncio.Runner, NodeSide, TorilSide]]:
    """Both libraries, each on a database of its own, and the loop that drives them."""
    running = Server.start()
    urls = [f"{running.url.removesuffix('/0')}/{number}" for number in (1, 2)]
    clients = [redis.Redis.from_url(url, decode_responses=True) for url in urls]
    driver = node.driver(urls[0])
    with asyncio.Runner() as runner:
        toril = TorilSide(urls[1], clients[1])
        yield runner, NodeSide(driver, clients[0]), toril
        runner.run(toril.reset())
    driver.stop()
    for client in clients:
        client.close()
    running.stop()


async def play(trace: list[Step], node: NodeSide, toril: TorilSide) -> None:
    """Play a trace on both sides."""
    duel = Duel((node, toril))
    await duel.begin()
    for step in trace:
        await step.play(duel)


@pytest.mark.timeout(3600)
def test_random_traces(sides: tuple[asyncio.Runner, NodeSide, TorilSide]) -> None:
    runner, node, toril = sides

    @TRACES
    @given(traces(LENGTH))
    def every(trace: list[Step]) -> None:
        runner.run(play(trace, node, toril))

    try:
        every()
    except Different as difference:
        pytest.fail(str(difference), pytrace=False)


def test_every_known_difference_is_in_the_documentation() -> None:
    page = (ROOT / "docs" / "differences.md").read_text()
    rows = [row for row in page.splitlines() if row.startswith("| ") and "---" not in row][1:]
    assert rows == [f"| {name} | {reason} |" for name, reason in documented().items()]
