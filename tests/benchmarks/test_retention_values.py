"""The costs of values are measured as the documentation says."""

from __future__ import annotations

from tests.benchmarks.retention_values import VARIANTS, measure, table


def test_what_values_cost() -> None:
    costs = {cost.name: cost for cost in measure(120)}
    assert list(costs) == [variant.name for variant in VARIANTS]
    for name in ("queue: 30d", "queue: 30d, logs 1d, data 7d", "queue: 30d, tombstone 365d"):
        assert costs[name].kept == 0
        assert costs[name].gone == 120
    assert 0 < costs["job: 30d"].kept < 400
    assert costs["flow: 30d, flow"].gone == 120
    assert 0 < costs["queue: 30d, tombstone 365d"].left < 300
    assert table(list(costs.values())).count("\n") == len(VARIANTS) + 1
