"""An App that a test drives: what could run runs when the test says so, and then all of it."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from contextlib import suppress
from typing import Final, Unpack

from toril.app import App
from toril.app_options import AppOptions
from toril.errors import GiveWay
from toril.queue import Queue
from toril.setting import Setting
from toril.testing.server import EmbeddedServer
from toril.worker import Worker

_RUNNABLE: Final = ("waiting", "prioritized", "active")
_LOOK_AGAIN: Final = 0.005
"""Seconds between two looks at what a worker that runs meanwhile has left."""


class DrivenApp(App):
    """An App on a test's server and clock. What differs from `App`: `drain` and `sweep`.

    Args:
        server: Where it works.
        settings: As for `App`.
        options: As for `App`; `clock` is the one that the test moves.
    """

    def __init__(
        self, server: EmbeddedServer, /, *settings: Setting, **options: Unpack[AppOptions]
    ) -> None:
        super().__init__(server.url, *settings, **options)
        self.server = server

    async def drain(self) -> None:
        """Run everything that can run now, until nothing is left to do.

        That is: the jobs of all queues by the workers of this App (made by `app.worker`, started or
        not) and by its tasks, delayed ones whose time has come included, and the plugins' services.
        What is due later stays: advance the clock, and drain again.

        Raises:
            LookupError: Jobs wait in a queue for which this App has no worker.
            Exception: Whatever a service raises.
        """
        await self.runtime.start()
        await self._work(self.serve_tasks())
        while True:
            await self._work_off()
            await self.sweep()
            if not await self._with_work():
                return

    async def sweep(self, *queues: str | Queue) -> None:
        """Run the plugins' services of these queues (default: of all), and nothing else.

        Twice, as a service may carry out in one run what it decided in the one before. If a worker
        that runs meanwhile leads a service, it is taken from it. A service that gives way, as a
        plugin that the queue requires is missing here, is left to others.
        """
        names = [each if isinstance(each, str) else each.name for each in queues]
        for name in 2 * (names or await self.queues()):
            with suppress(GiveWay):
                while not await self.run_services(name):
                    self._end_leases(name)

    def _end_leases(self, queue: str) -> None:
        client = self.server.client
        for key in client.scan_iter(f"{self.context.key(queue)}:toril:lease:*"):
            client.delete(key)

    async def _work_off(self) -> None:
        """Let the workers work until nothing is left to run now."""
        while waiting := await self._with_work():
            able = [worker for worker in self.serve_tasks() if worker.queue in waiting]
            unserved = waiting - {worker.queue for worker in able}
            if unserved:
                raise LookupError(
                    f"jobs wait in {', '.join(map(repr, sorted(unserved)))}, and this App has no "
                    "worker for them: make one with app.worker(queue, handler)"
                )
            await self._work(able)

    async def _with_work(self) -> set[str]:
        """The queues in which there is something to run now, or running."""
        found: set[str] = set()
        for name in await self.queues():
            queue = self.queue(name)
            counts = await queue.counts()
            if any(counts[state] for state in _RUNNABLE) and not await queue.is_paused():
                found.add(name)
        return found

    async def _work(self, workers: Iterable[Worker]) -> None:
        await asyncio.gather(*(self._let_work(worker) for worker in workers))

    async def _let_work(self, worker: Worker) -> None:
        """Let a worker run everything that can run now in its queue."""
        if not worker.is_running:
            await worker.run(burst=True)
            return
        worker.look()
        await asyncio.sleep(_LOOK_AGAIN)
        while worker.queue in await self._with_work():
            worker.look()
            await asyncio.sleep(_LOOK_AGAIN)
