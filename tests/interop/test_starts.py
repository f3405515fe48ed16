"""How often a job may be picked up: Node's limit and Toril's do the same with the same jobs."""

from __future__ import annotations

import asyncio
import json
import os
from typing import Any

import redis

from tests.support.driver import INTEROP
from tests.support.node import Node
from tests.support.server import Server
from tests.worker.conftest import until
from toril import ActiveJob, App, RetryIn


async def by_node(node: Node, url: str, most: int) -> dict[str, Any]:
    process = await asyncio.create_subprocess_exec(
        str(node.program), str(INTEROP / "node" / "starts.mjs"), url, str(most),
        env={**os.environ, "TORIL_NODE_HOME": str(node.home)},
        stdout=asyncio.subprocess.PIPE,
    )  # fmt: skip
    told, _ = await asyncio.wait_for(process.communicate(), 30)
    found: dict[str, Any] = json.loads(told)
    return found


async def by_toril(url: str, most: int) -> dict[str, Any]:
    runs: dict[str, int] = {}

    async def handler(job: ActiveJob) -> None:
        runs[job.id] = runs.get(job.id, 0) + 1
        if job.name == "fails":
            raise RuntimeError("no")
        raise RetryIn("0s")

    async with App(url, plugins=[]) as app:
        queue = app.queue("starts")
        jobs = [await queue.add(id, 1, id=id, attempts=5) for id in ("fails", "again")]

        async def all_failed() -> bool:
            return all([await job.state() == "failed" for job in jobs])

        async with app.worker("starts", handler, max_started_attempts=most, name="counter"):
            await until(all_failed)
        for job in jobs:
            await job.refresh()
        return {
            job.id: {
                "runs": runs[job.id],
                "reason": job.reason,
                "made": job.attempts_made,
                "started": job.attempts_started,
                "by": job.processed_by,
            }
            for job in jobs
        }


async def test_as_many_starts_as_in_node(
    node: Node, server: Server, redis_url: str, raw: redis.Redis
) -> None:
    for most in (1, 2):
        expected = await by_node(node, redis_url, most)
        raw.flushdb()
        assert await by_toril(redis_url, most) == expected
        raw.flushdb()
