"""The costs of the subjects of retention are measured as their pages say."""

from __future__ import annotations

from tests.benchmarks.retention_subjects import measure, table


def test_what_subjects_cost() -> None:
    costs = measure(60)
    removal, _ = costs["a removal by age"]
    assert costs["a removal with `Requires`"][0] < removal + 2
    assert removal < costs["a removal that is reviewed"][0] < costs["a removal that is archived"][0]
    assert costs["a finish"][1] == 0
    assert costs["`hold` by data of half of the jobs"][1] > 0
    assert all(commands > 0 for commands, _ in costs.values())
    assert table(costs).count("\n") == len(costs) + 1
