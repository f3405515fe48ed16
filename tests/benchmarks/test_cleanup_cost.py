"""What a finish costs under a rule: in commands, which are exact. And the benchmark runs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import redis

from tests.benchmarks.cleanup_cost import LIMIT, VARIANTS, Queue, main

BY_NAME = {variant.name: variant for variant in VARIANTS}


def commands(client: redis.Redis, name: str, batch: int) -> int:
    """How many commands the server carries out to finish `batch` jobs and pick up as many."""
    client.flushall()
    variant = BY_NAME[name]
    queue = Queue(client, variant, batch)
    queue.fill(variant.decided + LIMIT + 3 * batch)
    queue.run(variant.decided + batch)
    queue.decide(variant.decided)
    queue.run(LIMIT)
    client.config_resetstat()
    queue.run(batch)
    stats: Any = client.info("commandstats")
    return sum(stat["calls"] for stat in stats.values())


@pytest.mark.parametrize("batch", [1, 10, 50])
def test_how_many_commands(redis_url: str, batch: int) -> None:
    with redis.Redis.from_url(redis_url) as client:
        bare = commands(client, "without plugin", batch)
        assert commands(client, "no rule", batch) == bare
        assert commands(client, "below", batch) == bare + 1
        # Which are too many, their locks, two to remove them all, the event; and for each what
        # was said for it.
        assert commands(client, "at the limit", batch) == bare + 5 + batch
        # As above; how many there are of each kind, and which of these jobs have a decision.
        assert commands(client, "at, with own", batch) == bare + 9 + batch
        # As above, and nothing to look at: the script knows these jobs.
        assert commands(client, "nothing", batch) == bare + 4
        # What was decided about them, in the three places where it is looked for.
        assert commands(client, "own age", batch) == bare + 3
        # Only what is held of these jobs is read.
        assert commands(client, "a hold", batch) == bare + 1
        assert commands(client, "1000 holds", batch) == bare + 1


def test_the_benchmark_runs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["--finishes", "100", "--runs", "1", "--batches", "50", "--output", str(tmp_path)])
    stored = json.loads((tmp_path / "cleanup_cost.json").read_text())
    figures = stored["µs per job"]["50"]
    assert list(figures) == [variant.name for variant in VARIANTS]
    assert all(us > 0 for us in figures.values())
    assert (tmp_path / "cleanup_cost.md").read_text().strip() == capsys.readouterr().out.strip()
