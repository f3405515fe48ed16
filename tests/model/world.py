"""A real server behind the public API, with a clock that moves by hand, for a synchronous test."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Generator, Mapping, Sequence
from contextlib import contextmanager
from types import MappingProxyType
from typing import Any, TypeVar

import msgspec
import redis
from tests.model.places import Told

from toril import App, hookimpl
from toril.connection.call import Call, Resend, only
from toril.connection.steps import Steps
from toril.plugins import JobEvent, ManualClock
from toril.protocol.effects import Effects
from toril.protocol.finishing import Fetch, Finish, TickReply, finished_job, tick
from toril.protocol.record import CallRecord

T = TypeVar("T")

START: int = 1_790_000_000_000
LOCK_MS: int = 3_600_000


class Listener:
    """A plugin that notes every event as a model says it: kind, key of the job, and more."""

    def __init__(self) -> None:
        self.told: list[Told] = []
        self.stalled: list[str] = []

    @hookimpl
    def toril_jobs_saved(self, events: Sequence[Any]) -> None:
        self.told += [("saved", _key(event)) for event in events]

    @hookimpl
    def toril_jobs_completed(self, events: Sequence[Any]) -> None:
        self.told += [("completed", _key(event)) for event in events]

    @hookimpl
    def toril_jobs_failed(self, events: Sequence[Any]) -> None:
        self.told += [("failed", _key(event), event.final) for event in events]

    @hookimpl
    def toril_jobs_retried(self, events: Sequence[Any]) -> None:
        self.told += [("retried", _key(event), event.previous) for event in events]

    @hookimpl
    def toril_jobs_stalled(self, events: Sequence[Any]) -> None:
        self.stalled += [event.job.id for event in events]
        self.told += [
            ("stalled", _key(event), event.stalled_count, event.fails_next) for event in events
        ]

    @hookimpl
    def toril_jobs_removed(self, events: Sequence[Any]) -> None:
        self.told += [("removed", _key(event), event.cause) for event in events]


def _key(event: JobEvent) -> str:
    return f"bull:{event.job.queue}:{event.job.id}"


class World:
    """An App with the default plugins, and everything that its calls said.

    `sent` are the calls that may be sent again, with their results, since the last `begin`. Without
    `listening` nobody hears of events, and `listener` stays empty. `plugins`: more of them.
    """

    def __init__(
        self,
        url: str,
        client: redis.Redis,
        config: Mapping[str, Any],
        *,
        listening: bool = True,
        plugins: Sequence[object] = (),
    ) -> None:
        self._loop = asyncio.new_event_loop()
        self._url = url
        self.client = client
        self.clock = ManualClock(START)
        self.listener = Listener()
        # Nobody is rescued: whom a worker takes, and when, is for the test to say.
        plugins = [*([self.listener] if listening else []), *plugins, "*"]
        self.app = App(url, plugins=plugins, config=config, clock=self.clock, rescue_after="36500d")
        self.sent: list[tuple[Call[Any], Any]] = []
        self._numbers: dict[str, int] = {}

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        return self._loop.run_until_complete(work)

    def begin(self) -> None:
        """An empty database, at the first moment."""
        self.client.flushdb()
        self.clock._now_ms = START
        self.sent.clear()
        self.app.runtime.services.clear()  # they remember how far they have come
        self.listener.told.clear()
        self.listener.stalled.clear()

    async def start(self) -> None:
        await self.app.runtime.start()
        executor = self.app.runtime.executor
        self._converse = executor.converse

        def converse(request: Any, patience: Any = None) -> Steps[Any]:
            result = yield from self._converse(request, patience)
            if isinstance(request, Call) and request.resend is Resend.RECORDED:
                self.sent.append((request, result))
            return result

        executor.converse = converse  # type: ignore[method-assign]

    async def send_again(self, call: Call[Any]) -> Any:
        """The result of a call that is sent once more, as after a lost reply."""
        result = await self.app.runtime.executor.drive(self._converse(call))
        return result.value if isinstance(result, Effects) else result

    async def tick(
        self, queue: str, worker: str, finishes: Sequence[Finish], limit: int
    ) -> tuple[str, TickReply]:
        """What a worker does in one turn: the token of what it picked up, and the reply."""
        now, dispatcher = self.clock.now_ms(), self.app.runtime.dispatcher
        self._numbers[worker] = n = self._numbers.get(worker, 0) + 1
        token = f"{worker}:{n}"
        planned: list[Finish] = []
        for finish in finishes:
            if finish.kind in ("completed", "failed"):
                plan = dispatcher.plan_finish(finished_job(finish, now))
                planned.append(
                    msgspec.structs.replace(finish, plans=plan.plans, undecided=plan.undecided)
                )
            else:
                planned.append(finish)
        call = tick(
            queue,
            now=now,
            finishes=planned,
            fetch=Fetch(token, LOCK_MS, limit) if limit else None,
            record=CallRecord(worker, 0, n),
            wants=dispatcher.wants,
        )
        reply: TickReply = await self.app.perform(only(call))
        return token, reply

    def close(self) -> None:
        self.run(self.app.aclose())
        self._loop.close()


@contextmanager
def world(
    url: str,
    client: redis.Redis,
    config: Mapping[str, Any] = MappingProxyType({}),
    *,
    listening: bool = True,
    plugins: Sequence[object] = (),
) -> Generator[World]:
    made = World(url, client, config, listening=listening, plugins=plugins)
    try:
        made.run(made.start())
        yield made
    finally:
        made.close()
