"""No script does more where there are more jobs, by numbers; and the benchmark runs."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import redis

from tests.benchmarks.bounded import QUEUE, fill
from tests.conftest import ServerFactory
from toril import App
from toril_plugins import Retention

ROOT = Path(__file__).parents[2]
JOBS, KEEP = 10_000, 100


async def sweep(url: str, raw: redis.Redis, **config: int) -> list[int]:
    """Lower the limit of a queue that keeps many; how many jobs each script has removed."""
    fill(raw, JOBS)
    async with App(url, config={"cleanup": {"rest": 0, **config}}) as app:
        await app.queue(QUEUE).set(Retention(completed=KEEP))
        raw.config_resetstat()
        raw.slowlog_reset()
        assert await app.run_services(QUEUE)
    assert raw.zcard(f"bull:{QUEUE}:completed") == KEEP
    events: Any = raw.xrange(f"bull:{QUEUE}:events")
    slices = [int(event["count"]) for _, event in events]
    assert sum(slices) == JOBS - KEEP
    return slices


async def test_no_script_takes_long(fresh_server: ServerFactory) -> None:
    """But for those in which the machine, or Lua's collector, does something else."""
    server = fresh_server(slowlog_log_slower_than="5000", slowlog_max_len="10000")
    with server.client() as raw:
        slices = await sweep(server.url, raw)
        assert max(slices) == 10
        assert raw.slowlog_len() <= len(slices) / 20


async def test_no_script_removes_more_than_a_slice(redis_url: str, raw: redis.Redis) -> None:
    assert max(await sweep(redis_url, raw, slice=15)) == 15
    stats: dict[str, Any] = raw.info("commandstats")
    # No job is looked at more than a few times, however many there are.
    for command in ("hmget", "hgetall", "zscore", "exists"):
        calls = stats.get(f"cmdstat_{command}", {"calls": 0})["calls"]
        assert calls <= 4 * JOBS, f"{calls} times {command}"


def test_the_benchmark_runs(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "tests.benchmarks.bounded", "--jobs", "3000", "--keep", "100"]
    command += ["--peer-jobs", "2000", "--calm", "0.3", "--output", str(tmp_path)]
    done = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=110
    )
    assert done.returncode == 0, done.stderr
    seen = json.loads((tmp_path / "bounded.json").read_text())
    whole = [(each["who"], each["jobs"]) for each in seen]
    assert whole == [("toril", 3000), ("bullmq (Node)", 2000)]
    assert all(each["meanwhile"]["read"]["count"] > 0 for each in seen)
    assert (tmp_path / "bounded.md").read_text() == done.stdout
