"""Every scenario leaves the same traces in the database, whoever produces and whoever works.

The reference is BullMQ for Node in both roles. What may differ stands in `differences`, and nowhere
else; to see the traces of one scenario, run its `node-node` test with `-s --log-cli-level=DEBUG`.
"""

from __future__ import annotations

import logging

import pytest
import redis
from _pytest.mark import ParameterSet

from tests.interop.conftest import Library
from tests.interop.differences import MISSING, without_differences
from tests.interop.scenarios import SCENARIOS
from tests.support.dump import difference
from tests.support.scenario import Scenario

log = logging.getLogger(__name__)

#: Producer and worker. Node with itself, for the traces must not differ from one time to the next.
PAIRS = [
    ("node", "node"),
    ("python", "node"),
    ("node", "python"),
    ("toril", "node"),
    ("node", "toril"),
    ("toril", "toril"),
    ("toril", "python"),
    ("python", "toril"),
]


def case(scenario: Scenario, producer: str, worker: str) -> ParameterSet:
    missing = [
        pytest.mark.xfail(reason=reason, strict=True)
        for (name, role), reason in MISSING.items()
        if name == scenario.name and role in {f"{producer} producer", f"{worker} worker"}
    ]
    title = f"{scenario.name}-{producer}-{worker}"
    return pytest.param(scenario, producer, worker, id=title, marks=missing)


CASES = [
    case(scenario, producer, worker)
    for scenario in SCENARIOS
    for producer, worker in PAIRS
    if not {f"{producer} producer", f"{worker} worker"} & scenario.unable.keys()
]


@pytest.mark.parametrize(("scenario", "producer", "worker"), CASES)
async def test_same_traces_as_node(
    scenario: Scenario,
    producer: str,
    worker: str,
    *,
    library: Library,
    references: dict[str, list[str]],
    raw: redis.Redis,
) -> None:
    if scenario.name not in references:
        node = library("node")
        references[scenario.name] = await scenario.play(node, node, raw)
    expected = references[scenario.name]
    found = await scenario.play(library(producer), library(worker), raw)
    log.debug("\n".join(found))
    taken = frozenset({f"{producer} producer", f"{worker} worker"})
    shown = difference(
        without_differences(expected, scenario.name, taken),
        without_differences(found, scenario.name, taken),
        ("node produces, node works", f"{producer} produces, {worker} works"),
    )
    if shown:
        pytest.fail(f"{scenario.name}:\n{shown}", pytrace=False)
