"""Worker processes are killed at random points: no job is lost, or in two states, or runs twice
without need.
"""

from __future__ import annotations

import asyncio
import random
from itertools import pairwise
from pathlib import Path
from typing import Any

import redis

from tests.chaos.conftest import CONCURRENCY, Herd, until
from tests.support.invariants import check
from tests.support.ledger import Entry, by_job, count, entries
from toril import App, Backoff, Flow, NewJob

KILLS = 20
FLOWS, CHILDREN, PLAIN = 10, 4, 200  # of one round
JOBS = KILLS * (FLOWS * (1 + CHILDREN) + PLAIN)


def data(chance: random.Random) -> dict[str, Any]:
    """How often the job is to fail."""
    return {"fail": chance.choice((0, 0, 0, 1, 2))}


async def add_some(app: App, chance: random.Random) -> list[tuple[str, str, int]]:
    """The jobs of one round: queue, id, how often each fails."""
    added: list[tuple[str, str, int]] = []
    later = Backoff.fixed("20ms")
    new = [NewJob("plain", data(chance), attempts=3) for _ in range(PLAIN // 2)]
    for _ in range(PLAIN // 4):
        delay = f"{chance.randrange(300)}ms"
        new.append(NewJob("later", data(chance), delay=delay, attempts=3, backoff=later))
        priority = chance.randrange(1, 4)
        new.append(NewJob("urgent", data(chance), priority=priority, attempts=3))
    chance.shuffle(new)
    jobs = await app.queue("work").add_many(new)
    added += [("work", job.id, _fails(job.data)) for job in jobs]
    for _ in range(FLOWS):
        children = [Flow("work", "child", data(chance), attempts=3) for _ in range(CHILDREN)]
        root = await app.add_flow(
            Flow("parents", "parent", data(chance), children=children, attempts=3)
        )
        nodes = [node.job for node in await app.flow_tree(root)]
        added += [(job.queue, job.id, _fails(job.data)) for job in nodes]
    return added


def _fails(stored: Any) -> int:
    fails: int = stored["fail"]
    return fails


async def test_killed_workers_lose_nothing(
    redis_url: str, raw: redis.Redis, tmp_path: Path, chance: random.Random, herd: Herd
) -> None:
    for _ in range(3):
        herd.spawn()
    added: list[tuple[str, str, int]] = []

    def completed() -> int:
        return int(raw.zcard("bull:work:completed") + raw.zcard("bull:parents:completed"))

    async with App(redis_url) as app:
        for _ in range(KILLS):
            before = completed()
            added += await add_some(app, chance)
            point = before + chance.randrange((len(added) - before) * 9 // 10)
            victims = await until(herd.at_work)
            await until(lambda: completed() >= point)  # noqa: B023 - called at once
            await asyncio.sleep(chance.random() * 0.01)
            herd.kill(chance.choice(victims))
            herd.spawn()
        await until(lambda: completed() == JOBS)
    assert herd.stop() <= {0}, herd.said

    assert len({job_id for _, job_id, _ in added}) == JOBS
    assert check(raw, at_rest=True) == []
    noted = by_job(entries(tmp_path))
    stalls = 0
    for queue, job_id, fails in added:
        stored: Any = raw.hgetall(f"bull:{queue}:{job_id}")
        stalls += look_at(stored, noted[job_id], fails, herd.killed)
    assert noted.keys() == {job_id for _, job_id, _ in added}
    print(f"{stalls} executions were cut off by {KILLS} kills")
    assert stalls <= KILLS * 2 * CONCURRENCY


def look_at(
    stored: dict[str, str], noted: list[Entry], fails: int, killed: dict[int, float]
) -> int:
    """Whether what is stored of a job is what happened to it. Returns how often it stalled."""
    made, started, stalled = (int(stored.get(name, 0)) for name in ("atm", "ats", "stc"))
    begun, ended = count(noted, "begun"), count(noted, "failed", "done")
    assert made == fails + 1, (stored, noted)
    assert started == made + stalled, (stored, noted)
    # A process may have died before the handler began, or before the server knew of its end.
    assert begun <= started, (stored, noted)
    assert ended >= made, (stored, noted)
    if not stalled:
        assert begun == ended == made, (stored, noted)
    for entry, following in pairwise(noted):
        if entry.event == "begun" and entry.process != following.process:
            assert entry.process in killed, f"two ran it at once: {noted}"
    return stalled
