"""Carrying out a batch: asking the plugins, calling the server until it answers, telling them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from toril.clock import Clock
from toril.connection.execute import Executor
from toril.connection.lanes import CallRecord
from toril.hooks.buffer import EventBuffer
from toril.hooks.dispatch import Dispatcher
from toril.protocol.finishing import Fetch, Finish, finished_job, tick
from toril.worker.engine import Batch, Turn
from toril.worker.insist import insist


@dataclass(frozen=True, slots=True)
class FetchTerms:
    """On which terms a worker picks up jobs.

    `name`: written to the job, for dashboards. `rate`: so many jobs per so many milliseconds in the
    whole queue; what is stored with the queue goes before it.
    """

    lock_ms: int
    name: str | None = None
    rate: tuple[int, int] | None = None


class Turns:
    """Carries out batches, one at a time, and sends each until the server has answered.

    Args:
        queue_key: What the queue's keys begin with.
        who: The worker, as no other process calls itself.
        terms: On which terms jobs are picked up.
        executor: Reaches the server.
        dispatcher: Asks the plugins before a finish.
        events: Takes what happened, for the plugins.
        clock: For the times written to jobs.
    """

    def __init__(
        self,
        *,
        queue_key: str,
        who: str,
        terms: FetchTerms,
        executor: Executor,
        dispatcher: Dispatcher,
        events: EventBuffer,
        clock: Clock,
    ) -> None:
        self._queue_key = queue_key
        self._who = who
        self._terms = terms
        self._executor = executor
        self._dispatcher = dispatcher
        self._events = events
        self._clock = clock
        self._number = 0

    async def take(self, batch: Batch) -> Turn:
        """Carry out a batch. Raises nothing that passes by itself."""
        self._number += 1
        token = f"{self._who}:{self._number}"
        now = self._clock.now_ms()
        call = tick(
            self._queue_key,
            now=now,
            finishes=self._planned([finish for _, finish in batch.ended], now),
            fetch=self._fetch(token, batch.fetch) if batch.fetch else None,
            record=CallRecord(self._who, 0, self._number),
            wants=self._dispatcher.wants,
        )
        effects = await insist(self._executor, call)
        self._dispatcher.note(effects)
        self._events.put(effects.events)
        return Turn(token, effects.value)

    def _fetch(self, token: str, limit: int) -> Fetch:
        terms = self._terms
        most, per = terms.rate or (None, None)
        return Fetch(token, terms.lock_ms, limit, terms.name, most, per)

    def _planned(self, finishes: Sequence[Finish], now: int) -> Sequence[Finish]:
        """The finishes with what the plugins plan for those that are final."""
        if not self._dispatcher.plans_finish:
            return finishes
        return [
            self._plan(finish, now) if finish.kind in ("completed", "failed") else finish
            for finish in finishes
        ]

    def _plan(self, finish: Finish, now: int) -> Finish:
        plan = self._dispatcher.plan_finish(finished_job(finish, now))
        return replace(finish, plans=plan.plans, undecided=plan.undecided)
