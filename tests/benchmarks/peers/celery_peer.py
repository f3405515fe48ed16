"""Celery's part of the comparison; see roles.py."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from celery import Celery
from celery.worker import state

from tests.benchmarks.peers.roles import Payload, ThreadPeer, main


class CeleryPeer(ThreadPeer):
    def open(self) -> None:
        self.app: Any = Celery("bench", broker=self.order.url)
        self.app.conf.update(
            task_ignore_result=True,
            worker_prefetch_multiplier=128,
            worker_hijack_root_logger=False,
            worker_redirect_stdouts=False,
            broker_connection_retry_on_startup=True,
        )

        def send(payload: Payload) -> None:
            self.handle(payload)
            if self.ended():
                state.should_stop = 0

        self.task: Any = self.app.task(name="send")(send)

    def add(self, payload: Payload) -> None:
        self.task.delay(payload)

    def work(self, handle: Callable[[Payload], None], ended: Callable[[], bool]) -> None:
        self.handle, self.ended = handle, ended
        worker = self.app.Worker(
            pool="solo",
            concurrency=1,
            loglevel="ERROR",
            quiet=True,
            without_mingle=True,
            without_gossip=True,
            without_heartbeat=True,
        )
        worker.start()


if __name__ == "__main__":
    main(CeleryPeer)
