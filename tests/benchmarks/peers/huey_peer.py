"""huey's part of the comparison; see roles.py."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from huey import RedisHuey

from tests.benchmarks.peers.roles import Payload, ThreadPeer, main


class Huey(ThreadPeer):
    def open(self) -> None:
        self.huey: Any = RedisHuey("bench", url=self.order.url)

        def send(payload: Payload) -> None:
            self.handle(payload)

        self.task: Any = self.huey.task(name="send")(send)

    def add(self, payload: Payload) -> None:
        self.task(payload)

    def work(self, handle: Callable[[Payload], None], ended: Callable[[], bool]) -> None:
        self.handle = handle
        consumer = self.huey.create_consumer(
            workers=self.order.concurrency, worker_type="thread", periodic=False
        )
        consumer.start()
        while not ended():
            time.sleep(0.01)


if __name__ == "__main__":
    main(Huey)
