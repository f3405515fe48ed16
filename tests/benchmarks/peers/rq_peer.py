"""RQ's part of the comparison; see roles.py."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

from redis import Redis
from rq import Queue, SimpleWorker

from tests.benchmarks.peers.roles import PAYLOAD, Payload, ThreadPeer, main

MODULE = "tests.benchmarks.peers.rq_peer"
BATCH = 500
"""Jobs of one `enqueue_many`."""


def handle(payload: Payload) -> None:
    """What a job runs: RQ finds it by its name, so `work` puts the real one in its place."""


class RQ(ThreadPeer):
    def open(self) -> None:
        self.queue: Any = Queue("bench", connection=Redis.from_url(self.order.url))

    def add(self, payload: Payload) -> None:
        self.queue.enqueue(f"{MODULE}.handle", payload)

    def add_many(self, jobs: int) -> None:
        for first in range(0, jobs, BATCH):
            count = min(BATCH, jobs - first)
            self.queue.enqueue_many(
                [Queue.prepare_data(f"{MODULE}.handle", (PAYLOAD,)) for _ in range(count)]
            )

    def work(self, handle: Callable[[Payload], None], ended: Callable[[], bool]) -> None:
        found_by_name: Any = importlib.import_module(MODULE)
        found_by_name.handle = handle
        worker: Any = SimpleWorker([self.queue], connection=self.queue.connection)
        worker.work(logging_level="ERROR", max_jobs=self.order.jobs)


if __name__ == "__main__":
    main(RQ)
