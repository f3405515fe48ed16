"""The benchmark of growing costs runs, and its states are what they are said to be."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import redis

from tests.benchmarks.growth_states import fill, fill_schedules, job_id
from toril import App
from toril.types import State

ROOT = Path(__file__).parents[2]
KEYS: list[tuple[str, State]] = [
    ("wait", "waiting"), ("active", "active"), ("delayed", "delayed"),
    ("prioritized", "prioritized"), ("completed", "completed"), ("failed", "failed"),
]  # fmt: skip


@pytest.mark.parametrize(("key", "state"), KEYS)
async def test_a_state_is_sound(redis_url: str, raw: redis.Redis, key: str, state: State) -> None:
    fill(raw, "bench", key, 50)
    async with App(redis_url) as app:
        queue = app.queue("bench")
        assert await queue.counts(state) == {state: 50}
        first = [job.id async for job in queue.jobs(state, limit=1, ascending=True)]
        # Prioritised jobs run by priority, 1 before 2: the tenth is the first of them.
        assert first == [job_id(10 if state == "prioritized" else 1)]
        assert not (await app.audit("bench")).findings


async def test_schedules_are_sound(redis_url: str, raw: redis.Redis) -> None:
    fill_schedules(raw, "bench", 20)
    async with App(redis_url) as app:
        queue = app.queue("bench")
        schedules = await queue.schedules()
        assert [each.id for each in schedules] == [job_id(n, "s") for n in range(1, 21)]
        assert not (await app.audit("bench")).findings
        assert await queue.remove_schedule("s00000007")
        assert await queue.count("delayed") == 19


def test_the_benchmark_runs(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "tests.benchmarks.growth", "--most", "40"]
    command += ["--only", "waiting", "children", "--output", str(tmp_path)]
    done = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=110
    )
    assert done.returncode == 0, done.stderr
    points = json.loads((tmp_path / "growth.json").read_text())["points"]
    assert {point["subject"] for point in points} == {"waiting jobs", "children of a flow"}
    assert all(point["items"] > 0 and point["server_us"] > 0 for point in points)
    assert all(0 < point["longest_ms"] < 1000 for point in points)
    assert (tmp_path / "growth.md").read_text() == done.stdout
    assert {each.name for each in tmp_path.glob("*.svg")} == {
        "growth-waiting.svg", "growth-children.svg",
    }  # fmt: skip
