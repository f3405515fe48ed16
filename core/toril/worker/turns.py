"""Carrying out a batch: asking the plugins, calling the server until it answers, telling them."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import msgspec

from toril.clock import Clock
from toril.connection.begun import Begun
from toril.connection.call import Call
from toril.connection.execute import Executor
from toril.connection.lanes import CallRecord
from toril.connection.marker import MarkerWait
from toril.connection.steps import Steps
from toril.hooks.buffer import EventBuffer
from toril.hooks.dispatch import Dispatcher
from toril.job_events import JobAttemptFailed, JobCompleted, JobEvent
from toril.limits import RateLimit
from toril.metrics import Metrics
from toril.protocol import reading
from toril.protocol.effects import COMPLETED, FAILED, Effects, Wants
from toril.protocol.finishing import (
    DONE,
    NO_LOCK,
    NOT_ACTIVE,
    NOT_FOUND,
    OTHER_LOCK,
    Fetch,
    Finish,
    FinishKind,
    TickReply,
    finished_job,
    tick,
)
from toril.protocol.keys import queue_name
from toril.worker.insist import insist, insisting
from toril.worker.outside import Batch, Turn

_MOST_UNTOLD: Final = 100
"""Turns whose events may wait for those of an earlier turn, which is still under way."""
_ENDED: Final[Mapping[FinishKind, str]] = {
    "completed": "completed",
    "failed": "failed",
    "retry": "retried",
    "delay": "retried",
    "wait": "given_back",
}
"""How `toril_attempts_total` calls the end of an attempt."""
_NOT_OURS: Final = frozenset({NOT_FOUND, NO_LOCK, NOT_ACTIVE, OTHER_LOCK})


@dataclass(frozen=True, slots=True)
class TurnTerms:
    """On which terms a worker picks up jobs and ends them.

    `name`: written to the job, for dashboards. `limiter`: how many jobs begin within a time in the
    whole queue; what is stored with the queue goes before it. `metrics_minutes`: count the jobs
    that end, and keep the numbers of so many minutes.
    """

    lock_ms: int
    name: str | None = None
    limiter: RateLimit | None = None
    metrics_minutes: int | None = None


class Turns:
    """Carries out batches, and sends each until the server has answered.

    Each batch that is under way has a lane of its own, and so has a fetch that was sent ahead. What
    they did is told to the plugins in the order in which they were sent, so that what happened to
    one job is told in order; a fetch that was sent ahead counts as sent when its reply is there.

    Args:
        queue_key: What the queue's keys begin with.
        who: The worker, as no other process calls itself.
        terms: On which terms jobs are picked up and ended.
        executor: Reaches the server.
        dispatcher: Asks the plugins before a finish.
        events: Takes what happened, for the plugins.
        clock: For the times written to jobs.
        metrics: Where the attempts that ended are counted.
    """

    def __init__(
        self,
        *,
        queue_key: str,
        who: str,
        terms: TurnTerms,
        executor: Executor,
        dispatcher: Dispatcher,
        events: EventBuffer,
        clock: Clock,
        metrics: Metrics,
    ) -> None:
        self._queue_key = queue_key
        self._queue = queue_name(queue_key)
        self._metrics = metrics
        self._who = who
        self._terms = terms
        self._executor = executor
        self._dispatcher = dispatcher
        self._events = events
        self._clock = clock
        self._number = 0
        self._lanes: list[CallRecord] = []  # the last call of each lane that is free
        self._lane_count = 0
        self._told = 0
        self._to_tell: dict[int, Sequence[JobEvent]] = {}
        self._caught_up = asyncio.Event()

    @property
    def behind(self) -> bool:
        """Whether too many turns wait for an earlier one before their events can be told."""
        return self._number - self._told > _MOST_UNTOLD

    async def caught_up(self) -> None:
        """Wait until that is over."""
        while self.behind:
            self._caught_up.clear()
            await self._caught_up.wait()

    def take(self, batch: Batch, over: Callable[[Begun[Turn]], None]) -> Begun[Turn]:
        """Begin to carry out a batch; `over` is called with it when that has ended.

        It ends with nothing that passes by itself.
        """
        return Begun(self._executor, self._turn(batch), over)

    def _turn(self, batch: Batch) -> Steps[Turn]:
        self._number += 1
        number, record = self._number, self._next_record()
        token = _token(record)
        now, began = self._clock.now_ms(), time.monotonic()
        finishes = [planned(self._dispatcher, finish, now) for _, finish in batch.ended]
        call = tick(
            self._queue_key,
            now=now,
            finishes=finishes,
            fetch=self._fetch(token, batch.fetch) if batch.fetch else None,
            metrics_minutes=self._terms.metrics_minutes,
            record=record,
            wants=self._dispatcher.wants,
        )
        effects = yield from insisting(self._executor, call)
        if time.monotonic() - began > 2 * self._terms.lock_ms / 1000:
            effects = yield from self._ask(finishes, now, effects)
        if finishes:
            self._count(finishes, effects.value.codes)
        return self._taken(number, record, token, effects)

    async def fetch_ahead(
        self, marker: MarkerWait, seconds: float, came: Callable[[Turn | None], None]
    ) -> None:
        """Fetch one job the moment there is one, but not later than in so many seconds.

        The fetch is sent behind a wait for the marker, so it costs no round trip of its own.

        Args:
            marker: The wait.
            seconds: How long it lasts.
            came: Gets what came of it, once: mostly in the step of the loop that reads the reply.
                None: it could not be sent, or the wait was ended before; somebody has to fetch.

        Raises:
            ConfigurationError, ServerError: The server refuses, and will go on refusing.
        """
        record = self._next_record()
        token = _token(record)
        fetch = self._fetch(token, 1)
        done = False

        def call(offset: float | None = None) -> Call[Effects[TickReply]]:
            return tick(
                self._queue_key,
                now=self._clock.now_ms(),
                offset=offset,
                fetch=fetch,
                record=record,
                wants=self._dispatcher.wants,
            )

        def take(effects: Effects[TickReply]) -> None:
            nonlocal done
            done = True
            self._number += 1
            came(self._taken(self._number, record, token, effects))

        def answered(effects: Effects[TickReply]) -> None:
            if not self._is_old(effects.value):
                take(effects)

        waited = await marker.wait(seconds, call, answered)
        if not waited.sent:
            self._lanes.append(record)
            came(None)
        elif not done:
            # The same call: if it has been carried out, it tells what is still this worker's.
            take(await insist(self._executor, call()))

    def _is_old(self, reply: TickReply) -> bool:
        """Whether locks may have run out since: this process was frozen, or a clock was set."""
        return self._clock.now_ms() - reply.at > self._terms.lock_ms / 2

    def _taken(
        self, number: int, record: CallRecord, token: str, effects: Effects[TickReply]
    ) -> Turn:
        self._dispatcher.note(effects)
        self._lanes.append(record)
        self._tell(number, effects.events)
        return Turn(token, effects.value)

    def _count(self, finishes: Sequence[Finish], codes: Sequence[int]) -> None:
        ends: dict[str, int] = {}
        for finish, code in zip(finishes, codes, strict=True):
            if code >= 0:
                ended = _ENDED[finish.kind]
                ends[ended] = ends.get(ended, 0) + 1
        for ended, number in ends.items():
            self._metrics.count("toril_attempts_total", number, queue=self._queue, ended=ended)

    def _next_record(self) -> CallRecord:
        """A lane that is free, or a new one, and the next number in it."""
        if self._lanes:
            last = self._lanes.pop()
            return CallRecord(self._who, last.lane, last.n + 1)
        self._lane_count += 1
        return CallRecord(self._who, self._lane_count - 1, 1)

    def _tell(self, number: int, events: Sequence[JobEvent]) -> None:
        self._to_tell[number] = events
        while self._told + 1 in self._to_tell:
            self._told += 1
            self._events.put(self._to_tell.pop(self._told))
        self._caught_up.set()

    def _ask(
        self, finishes: Sequence[Finish], now: int, effects: Effects[TickReply]
    ) -> Steps[Effects[TickReply]]:
        """What an outage that outlived the call's record has left open.

        A job that was refused now, but ended at this very call's time, was ended by its first
        sending, whose reply was lost.
        """
        codes, events = list(effects.value.codes), list(effects.events)
        for position, finish in enumerate(finishes):
            if codes[position] in _NOT_OURS and finish.kind in ("completed", "failed"):
                job = finish.job
                read = reading.job(self._queue_key, job.id)
                found = yield from insisting(self._executor, read)
                if found is not None and found.finished == now:
                    codes[position] = DONE
                    events += final_event(finish, now, self._dispatcher.wants)
        value = msgspec.structs.replace(effects.value, codes=tuple(codes))
        return msgspec.structs.replace(effects, value=value, events=tuple(events))

    def _fetch(self, token: str, limit: int) -> Fetch:
        terms = self._terms
        rate = terms.limiter
        most, per = (None, None) if rate is None else (rate.max, rate.per_ms)
        return Fetch(token, terms.lock_ms, limit, terms.name, most, per)


def _token(record: CallRecord) -> str:
    """What locks the jobs that a call picks up: no other call has it."""
    return f"{record.who}:{record.lane}:{record.n}"


def planned(dispatcher: Dispatcher, finish: Finish, now: int) -> Finish:
    """The end of an attempt, with what the plugins plan for it if it is final."""
    if finish.kind not in ("completed", "failed") or not dispatcher.may_plan_finish(finish.job):
        return finish
    plan = dispatcher.plan_finish(finished_job(finish, now))
    if not plan.plans and not plan.undecided:
        return finish
    return msgspec.structs.replace(finish, plans=plan.plans, undecided=plan.undecided)


def final_event(finish: Finish, now: int, wants: Wants) -> list[JobEvent]:
    """What the end of a job means for the hooks that want to know."""
    job = finished_job(finish, now)
    if finish.kind == "completed":
        return [JobCompleted(job)] if COMPLETED in wants else []
    failed = JobAttemptFailed(job, finish.value, final=True, cause=finish.cause)
    return [failed] if FAILED in wants else []
