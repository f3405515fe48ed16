"""Workers are killed again and again: no job is lost, added twice or in two states."""

from __future__ import annotations

import asyncio
import random
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import redis
from tests.support.server import Server

from toril import App, NewJob

JOBS = 5_000
KILLS = 20
WORKER = Path(__file__).parent / "ledger_worker.py"


class Fleet:
    """Worker processes that can be killed at any moment."""

    def __init__(self, url: str, ledger: Path, size: int) -> None:
        self._command = [sys.executable, str(WORKER), url, str(ledger)]
        self._workers = [self._spawn() for _ in range(size)]

    def _spawn(self) -> subprocess.Popen[bytes]:
        return subprocess.Popen(self._command)

    def kill_one(self, chance: random.Random) -> None:
        """SIGKILL one of them, and put another in its place."""
        number = chance.randrange(len(self._workers))
        self._end(self._workers[number])
        self._workers[number] = self._spawn()

    def end(self) -> None:
        for worker in self._workers:
            self._end(worker)

    @staticmethod
    def _end(worker: subprocess.Popen[bytes]) -> None:
        worker.kill()
        worker.wait()


def unowned(raw: redis.Redis, jobs: set[str]) -> list[str]:
    """Keys that belong to no job, are none of the queue's own, and do not run out."""
    own = {"meta", "events", "completed", "marker", "stalled", "stalled-check", "id"}
    found: list[str] = []
    for key in raw.scan_iter("*", count=1000):
        name = key.removeprefix("bull:q:")
        if name not in own and name not in jobs and raw.ttl(key) < 0:
            found.append(key)
    return found


async def test_no_kill_loses_a_job(
    server: Server, redis_url: str, raw: redis.Redis, tmp_path: Path
) -> None:
    seed = random.randrange(10**6)
    print(f"seed {seed}")
    chance = random.Random(seed)
    ledger = tmp_path / "ledger"
    async with App(redis_url) as app:
        added = await app.queue("q").add_many([NewJob("n", {"n": n}) for n in range(JOBS)])
    ids = {job.id for job in added}
    assert len(ids) == JOBS

    fleet = Fleet(redis_url, ledger, 3)
    try:
        deadline = time.monotonic() + 100
        for kill in range(1, KILLS + 1):
            # Spread over the whole work, and never at the same moment of a worker's turn.
            while raw.zcard("bull:q:completed") < JOBS * kill / (KILLS + 1):
                assert time.monotonic() < deadline, "the workers do not get on"
                await asyncio.sleep(0.01)
            await asyncio.sleep(chance.uniform(0, 0.03))
            fleet.kill_one(chance)
        while raw.zcard("bull:q:completed") < JOBS:
            assert time.monotonic() < deadline, f"missing: {missing(raw, ids)}"
            await asyncio.sleep(0.02)
        await asyncio.sleep(0.05)
    finally:
        fleet.end()

    assert set(raw.zrange("bull:q:completed", 0, -1)) == ids
    for state in ("wait", "active", "paused"):
        assert raw.llen(f"bull:q:{state}") == 0, state
    for state in ("delayed", "prioritized", "failed", "waiting-children"):
        assert raw.zcard(f"bull:q:{state}") == 0, state

    lines = Counter(ledger.read_text().splitlines())
    assert {line.removeprefix("end ") for line in lines if line.startswith("end ")} == ids
    again = sum(lines[f"start {id_}"] - 1 for id_ in ids)
    assert again <= KILLS * 25, "a kill repeats no more than what that worker ran"
    for id_ in ids:
        started, made, stalled = raw.hmget(f"bull:q:{id_}", "ats", "atm", "stc")
        assert made == "1", "only an execution that ended counts as an attempt"
        assert int(started or 0) == 1 + int(stalled or 0), "started again only after a stall"
        assert lines[f"start {id_}"] <= int(started or 0)
    assert unowned(raw, ids) == []


def missing(raw: redis.Redis, ids: set[str]) -> list[tuple[str, object]]:
    """Jobs that have not completed, and what is stored of them."""
    left = sorted(ids - set(raw.zrange("bull:q:completed", 0, -1)))
    return [(each, raw.hgetall(f"bull:q:{each}")) for each in left[:5]]
