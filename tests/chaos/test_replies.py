"""Replies are lost, and calls arrive after they have been sent again: nothing is added, run or
finished twice, and no job counts as stalled.
"""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from typing import Any

import redis

from tests.chaos.conftest import until
from tests.support.invariants import check
from tests.support.proxy import FaultProxy
from tests.support.server import Server
from toril import ActiveJob, App, NewJob

FAULTS = 500
PRODUCERS = 4
LATE = -20


class Work:
    """Producers and workers behind a proxy, and what they did."""

    def __init__(self, app: App, chance: random.Random) -> None:
        self.app = app
        self.chance = chance
        self.fails: dict[str, int] = {}
        """The jobs that were added: how often each is to fail."""
        self.runs: Counter[str] = Counter()
        self.enough = False

    async def handle(self, job: ActiveJob) -> None:
        self.runs[job.id] += 1
        data: Any = job.data
        if job.attempt <= data["fail"]:
            raise ValueError("as asked")

    async def produce(self, app: App) -> None:
        """Add jobs, one or some at a time."""
        queue = app.queue("q")
        while not self.enough:
            fails = [self.chance.choice((0, 0, 0, 1)) for _ in range(self.chance.choice((1, 1, 5)))]
            new = [NewJob("n", {"fail": count}, attempts=2) for count in fails]
            if len(new) == 1:
                jobs = [await queue.add("n", {"fail": fails[0]}, attempts=2)]
            else:
                jobs = await queue.add_many(new)
            self.fails.update({job.id: count for job, count in zip(jobs, fails, strict=True)})

    async def completed(self) -> bool:
        return (await self.app.queue("q").counts())["completed"] == len(self.fails)


async def disturb(proxy: FaultProxy, scripts: list[str], chance: random.Random) -> list[Any]:
    """Lose and delay; the replies to the calls that arrived late."""
    replies: list[Any] = []
    for number in range(FAULTS):
        break_one = chance.choice((proxy.drop_reply, proxy.hold_command, proxy.hold_command))
        break_one("EVALSHA", chance.randrange(1, 4), scripts)
        await until(lambda: proxy.dropped == number + 1)  # noqa: B023 - called at once
        if chance.random() < 0.3:
            # Some arrive after the call has been sent again, some perhaps even before.
            await asyncio.sleep(chance.choice((0, 0.01, 0.03)))
            replies += await asyncio.to_thread(proxy.deliver)
    return replies + await asyncio.to_thread(proxy.deliver)


async def test_lost_and_late_replies_do_no_harm(
    server: Server, redis_url: str, raw: redis.Redis, chance: random.Random
) -> None:
    raw.hset("bull:q:meta", "opts.maxLenEvents", 1_000_000)
    with FaultProxy.start(server.port) as proxy:
        async with App(proxy.url) as app:
            work = Work(app, chance)
            worker = app.worker("q", work.handle, concurrency=5)
            other = app.worker("q", work.handle, concurrency=20)
            others = [App(proxy.url) for _ in range(PRODUCERS - 1)]
            async with worker, other:
                producing = [asyncio.create_task(work.produce(one)) for one in (app, *others)]
                scripts = [app.runtime.scripts[name].sha1 for name in ("add", "tick")]
                late = await disturb(proxy, scripts, chance)
                work.enough = True
                await asyncio.gather(*producing)
                await until(work.completed)
            for one in others:
                await one.aclose()
    assert proxy.dropped == FAULTS
    print(f"{len(work.fails)} jobs, {len(late)} late calls, {late.count(LATE)} of them refused")
    assert late.count(LATE) > 0
    assert not any(isinstance(reply, Exception) for reply in late)

    assert check(raw, at_rest=True) == []
    stored: Any = raw.zrange("bull:q:completed", 0, -1)
    assert set(stored) == work.fails.keys()
    for job_id, fails in work.fails.items():
        job = raw.hgetall(f"bull:q:{job_id}")
        counted = (job.get("atm"), job.get("ats"), job.get("stc"))
        assert counted == (str(fails + 1), str(fails + 1), None), (job_id, job)
        assert work.runs[job_id] == fails + 1
    told: Counter[tuple[str, str]] = Counter()
    events: Any = raw.xrange("bull:q:events")
    for _, fields in events:
        if "jobId" in fields:
            told[fields["jobId"], fields["event"]] += 1
    for job_id, fails in work.fails.items():
        assert told[job_id, "added"] == told[job_id, "completed"] == 1
        assert told[job_id, "active"] == fails + 1
