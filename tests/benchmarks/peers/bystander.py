"""Somebody else on the server, in a process: `<url>`.

Works in a queue of its own until its standard input ends, and then tells how long each of two
things took, in microseconds: a plain read, and a job's way from `add` to its handler.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time

import redis

from toril import ActiveJob, App

PAUSE = 0.002
"""Seconds between two jobs: who sweeps needs a processor, too."""


async def main(url: str) -> dict[str, list[float]]:
    client = redis.Redis.from_url(url)
    arrived = asyncio.Event()
    taken: dict[str, list[float]] = {"read": [], "job": []}

    async def handle(job: ActiveJob) -> None:
        arrived.set()

    async with App(url) as app:
        queue = app.queue("other")
        async with app.worker("other", handle, concurrency=10):
            await queue.add("warm-up")
            await arrived.wait()
            print("ready", flush=True)
            ended = asyncio.create_task(asyncio.to_thread(sys.stdin.read))
            while not ended.done():
                started = time.perf_counter()
                client.get("bull:other:nothing")
                taken["read"].append((time.perf_counter() - started) * 1e6)
                arrived.clear()
                started = time.perf_counter()
                await queue.add("do")
                await arrived.wait()
                taken["job"].append((time.perf_counter() - started) * 1e6)
                await asyncio.sleep(PAUSE)
    client.close()
    return taken


if __name__ == "__main__":
    print(json.dumps(asyncio.run(main(sys.argv[1]))))
