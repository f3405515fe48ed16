"""What a cluster's capacity rests on, in numbers that are the same on every machine."""

from __future__ import annotations

import asyncio
import json
from dataclasses import replace
from pathlib import Path

import pytest

from tests.benchmarks import capacity, cluster, durability, footprint
from tests.benchmarks.capacity import DOCUMENTED, Figures, Need, plan
from tests.support.server import Server


def test_a_job_costs_a_shard_what_it_costs_a_server(tmp_path: Path) -> None:
    cluster.main(
        ["--jobs", "1200", "--queues", "6", "--shards", "1", "3", "--output", str(tmp_path)]
    )
    alone, shared = json.loads((tmp_path / "cluster.json").read_text())
    (single,) = alone["shards"]
    spent = single["done"]["commands"] / single["jobs"]
    assert [shard["jobs"] for shard in shared["shards"]] == [
        200 * shard["queues"] for shard in shared["shards"]
    ]
    assert sum(shard["queues"] for shard in shared["shards"]) == 6
    for shard in (single, *shared["shards"]):
        # Nobody was sent to another shard, and nobody asked several.
        assert shard["done"]["redirects"] == 0
        assert shard["done"]["commands"] / shard["jobs"] == pytest.approx(spent, rel=0.05)


def test_what_is_kept_takes_memory() -> None:
    server = Server.start()
    try:
        sizes = {
            name: asyncio.run(footprint.bytes_per_job(server, subject, 300, 100))[0]
            for name, subject in footprint.SUBJECTS.items()
        }
        connections = asyncio.run(footprint.connections(server))
    finally:
        server.stop()
    assert 400 < sizes["waiting"] < sizes["completed, kept without a rule"] < 1000
    assert sizes["completed, kept by a rule of its own"] > sizes["completed, kept without a rule"]
    assert sizes["gone, a tombstone left"] < sizes["completed, kept without a rule"]
    assert sizes["gone, archived (SQLite)"] < 20
    assert connections["a producer, 100 callers who wait at once"] <= 2
    assert max(connections.values()) <= 17


def test_the_price_of_safety_is_measured(tmp_path: Path) -> None:
    durability.main(["--jobs", "200", "--runs", "1", "--output", str(tmp_path)])
    costs = json.loads((tmp_path / "durability.json").read_text())
    assert list(costs) == list(durability.WAYS)
    assert all(cost["cpu_us"] > 0 for cost in costs.values())


FIGURES = Figures(
    cpu_us=50.0,
    process_jobs=10_000.0,
    job_bytes={"waiting": (500.0, 1400.0), capacity.KINDS["kept"]: (600.0, 1500.0)},
    event_stream=1e6,
)
LOAD = Need(20_000, 0.05, 1000, 10, {capacity.KINDS["kept"]: 1000.0}, waiting=0)


def test_arithmetic() -> None:
    found = plan(LOAD, FIGURES)
    assert found.per_shard == 10_000
    assert found.bytes == 20_000 * 1000 * 1500 + 10 * 1e6
    assert found.shards == 4  # 30 GB, of which 8 fit; two would do for the processors
    assert found.workers == 10  # 1,000 jobs run at once, 100 in each
    assert found.connections == 10 * FIGURES.worker_connections + 10 * 4
    assert plan(replace(LOAD, kept={}), FIGURES).shards == 2
    assert plan(replace(LOAD, kept={}, headroom=0.25), FIGURES).shards == 4
    assert plan(replace(LOAD, kept={}), replace(FIGURES, safety=2.0)).shards == 4
    assert plan(replace(LOAD, kept={}, handler=0.0), FIGURES).workers == 4
    assert FIGURES.bytes("waiting", 550) == 950
    with pytest.raises(ValueError, match=r"4 shards are needed.*3 queues are too few"):
        plan(replace(LOAD, queues=3), FIGURES)


def test_the_documented_plan(capsys: pytest.CaptureFixture[str]) -> None:
    page = (Path(__file__).parents[2] / "docs" / "capacity.md").read_text()
    command = next(
        line for line in page.splitlines() if line.startswith("python -m tests.benchmarks.capacity")
    )
    capacity.main(command.split()[3:])
    assert capsys.readouterr().out in page
    assert DOCUMENTED.cpu_us > 0
