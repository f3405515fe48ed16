"""dramatiq's part of the comparison; see roles.py."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import dramatiq
from dramatiq.brokers.redis import RedisBroker

from tests.benchmarks.peers.roles import Payload, ThreadPeer, main


class Dramatiq(ThreadPeer):
    def open(self) -> None:
        self.broker: Any = RedisBroker(url=self.order.url)

        def send(payload: Payload) -> None:
            self.handle(payload)

        self.actor: Any = dramatiq.actor(send, actor_name="send", broker=self.broker)

    def add(self, payload: Payload) -> None:
        self.actor.send(payload)

    def work(self, handle: Callable[[Payload], None], ended: Callable[[], bool]) -> None:
        self.handle = handle
        dramatiq.Worker(self.broker, worker_threads=self.order.concurrency).start()
        while not ended():
            time.sleep(0.01)


if __name__ == "__main__":
    main(Dramatiq)
