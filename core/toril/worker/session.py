"""One run of a worker: everything that lives from its start to its stop."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
import os
import socket
import time
import uuid
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine, Iterable, Sequence
from typing import TYPE_CHECKING, Any, Final, cast

from toril.clock import SystemClock
from toril.connection.blocking import worker_client_name
from toril.connection.call import only
from toril.connection.conversation import Patience
from toril.connection.execute import SyncExecutor
from toril.connection.marker import MarkerWait
from toril.hooks.buffer import EventBuffer
from toril.hooks.context import WorkerInfo
from toril.protocol import reading
from toril.protocol.finishing import Finish
from toril.protocol.inspecting import MOST_TOLD, Beat
from toril.protocol.locking import StalledReport, renew, stalled_check
from toril.protocol.settings import SettingChange, set_live
from toril.setting import Level, Said, Setting
from toril.settings import check_declared
from toril.worker.active_job import ActiveJob
from toril.worker.engine import Engine
from toril.worker.heartbeat import Heartbeat
from toril.worker.invoking import Invoker
from toril.worker.job_host import AppJobHost
from toril.worker.locks import LockKeeper
from toril.worker.options import Terms
from toril.worker.outside import Batch, UnderWay
from toril.worker.runner import Runner
from toril.worker.series import Series
from toril.worker.services import services_of
from toril.worker.slots import Slots
from toril.worker.stalled import StalledCheck
from toril.worker.stop import Stop
from toril.worker.turns import Turns, TurnTerms
from toril.worker.watch import MarkerWatch

if TYPE_CHECKING:
    from toril.app import App

log = logging.getLogger("toril.worker")

_TO_END: Final = 1.0
"""Seconds in which what talks to the server has to end; a server that is gone does not answer."""
_TO_GIVE_WAY: Final = (7.0, 1.0)
"""Seconds that the worker's helpers have to end; first they finish what they have sent."""
_LEAST_DRAIN: Final = 1.0
"""Seconds that the plugins get for the last events, however short the grace time is."""


class Session:
    """A worker at work. Made on the loop on which it runs.

    Args:
        app: Where it works.
        queue: The queue's name.
        invoker: Runs the handler.
        said: What the worker says for its queue.
        terms: Its options.
        burst: Stop when there is nothing left to run.
    """

    def __init__(
        self,
        app: App,
        queue: str,
        invoker: Invoker,
        *,
        said: Sequence[Said[Any]],
        terms: Terms,
        burst: bool,
    ) -> None:
        self._runtime = app.runtime
        self._queue = queue
        self._key = app.context.key(queue)
        self._prefix = app.context.prefix
        self._terms = terms
        self._said = said
        self._who = str(uuid.uuid4())
        self._broken: BaseException | None = None
        self.stop = Stop()
        self.ready = asyncio.Event()
        """It has begun to pick up jobs."""
        self.ended = asyncio.Event()
        self.slots = Slots(terms.concurrency)
        host = AppJobHost(app, queue, self.stop, terms.lock_ms)
        self._invoker = invoker

        def put_aside(job: ActiveJob) -> Awaitable[Finish | None]:
            return host.put_aside(job, self._runner)

        self._runner = Runner(
            self._invoker,
            backoffs=terms.backoffs,
            timeout_ms=terms.timeout_ms,
            most_starts=terms.max_started_attempts,
            put_aside=put_aside,
            go_on=Series(app.runtime, self._key).go_on,
            is_recent=self.slots.is_recent,
            # The dispatcher is there once the App has started.
            around=lambda job: app.runtime.dispatcher.around(job),  # noqa: PLW0108 - see above
        )
        self.engine = Engine(
            queue=queue,
            host=host,
            runner=self._runner,
            slots=self.slots,
            outside=self,
            clock=self._runtime.clock,
            longest_limited=terms.max_rate_limit_delay_ms / 1000,
            burst=burst,
            job_type=invoker.job_type,
        )

    @property
    def info(self) -> WorkerInfo:
        """What plugins are told about this worker."""
        name = self._terms.name or f"{socket.gethostname()}:{os.getpid()}:{self._who[:8]}"
        return WorkerInfo(self._queue, name, self.slots.size, given_back=self.engine.given_back)

    def take_turn(self, batch: Batch, over: Callable[[UnderWay], None], /) -> UnderWay:
        """Begin to carry out a batch on the server, however long that takes."""
        return self._turns.take(batch, over)

    @property
    def crowded(self) -> bool:
        """So much is still to be told to plugins that no more jobs should be picked up."""
        return self._buffer.full or self._turns.behind

    async def room(self) -> None:
        """Wait until that is over."""
        await self._turns.caught_up()
        await self._buffer.room()

    def empty_handed(self) -> None:
        """The engine is about to wait although it has free slots."""
        self._invoker.empty_handed()

    def watch(self) -> None:
        """Fetch one job as soon as there is one, and give it to the engine's `came`."""
        self._watch.begin()

    def recall(self) -> None:
        """Do so now, whether there is one or not."""
        self._watch.recall()

    def hold(self, jobs: Iterable[ActiveJob], /) -> None:
        """From now on these are the jobs whose locks are to be renewed."""
        self._locks.hold(jobs)

    async def run(self) -> None:
        """Start, work until stopped (or, in a burst, until nothing is left), and stop.

        Raises:
            ConfigurationError: Something configured cannot work.
            ServerUnavailable: The server cannot be reached at the start.
        """
        await self._runtime.start()
        await self._publish_settings()
        # Whether there is a server at all is found out before anything is started.
        await self._runtime.drive(only(reading.meta(self._key)))
        async with contextlib.AsyncExitStack() as stack:
            stack.push_async_callback(self._invoker.close)
            stack.callback(self._runner.close)
            await self._invoker.start(self.engine)
            await stack.enter_async_context(self._events())
            await stack.enter_async_context(self._lock_renewal())
            self._turns = Turns(
                queue_key=self._key,
                who=self._who,
                terms=TurnTerms(
                    self._terms.lock_ms,
                    self._terms.name,
                    self._terms.limiter,
                    self._terms.metrics_minutes,
                ),
                executor=self._runtime.executor,
                dispatcher=self._runtime.dispatcher,
                events=self._buffer,
                clock=self._runtime.clock,
                metrics=self._runtime.metrics,
            )
            await stack.enter_async_context(self._marker_watch())
            await stack.enter_async_context(self._heartbeat())
            await stack.enter_async_context(self._helper(self._stalled_check().run()))
            for service in services_of(self._runtime, self._queue):
                await stack.enter_async_context(self._helper(service.run()))
            work = asyncio.create_task(self.engine.run())
            self.ready.set()
            log.info(
                "queue %s: up to %d jobs at once, as %s",
                self._queue, self.slots.size, self.info.name,
            )  # fmt: skip
            await self.stop.watch(self.engine, work)
            if not work.cancelled():
                work.result()
        if self._broken is not None:
            raise self._broken

    async def _publish_settings(self) -> None:
        """Say for the queue what the App, the queue and the worker were given in code."""
        runtime = self._runtime
        check_declared(self._said, runtime.plugins.settings)
        for publishing in runtime.declared.publishing((self._queue,), runtime.plugins.settings):
            await runtime.drive(publishing)
        levels: tuple[tuple[Level, Sequence[Said[Any]]], ...] = (
            ("application", runtime.settings),
            ("worker", self._said),
        )
        for level, settings in levels:
            for said in settings:
                change: SettingChange[Any] = await runtime.drive(
                    set_live(
                        self._key,
                        cast("type[Setting]", type(said.value)),
                        level,
                        said.value,
                        how="declared",
                        source=said.source,
                        now=runtime.clock.now_ms(),
                    )
                )
                if change.disagreement is not None:
                    log.warning(
                        "queue %s: this process says %r; %s said %r, which no longer counts",
                        self._queue, said.value,
                        change.disagreement.source, change.disagreement.value,
                    )  # fmt: skip

    @contextlib.asynccontextmanager
    async def _events(self) -> AsyncGenerator[None]:
        """The way to the plugins, who are told that the worker is ready and that it has stopped."""
        dispatcher = self._runtime.dispatcher
        events = self._buffer = EventBuffer(dispatcher)
        await dispatcher.worker_ready(self.info)
        try:
            yield
        finally:
            await events.drain(max(_LEAST_DRAIN, self.stop.left) if self.stop.asked else 10.0)
            await dispatcher.worker_stopped(self.info)

    @contextlib.asynccontextmanager
    async def _lock_renewal(self) -> AsyncGenerator[None]:
        loop = asyncio.get_running_loop()
        runtime, lock = self._runtime, self._terms.lock_ms / 1000
        executor = SyncExecutor(
            runtime.executor.endpoint, runtime.scripts, patience=Patience(total=lock / 3)
        )

        def renew_some(jobs: Sequence[ActiveJob]) -> set[str]:
            now, lock_ms = time.monotonic(), self._terms.lock_ms
            held = [
                (job.id, job.token, max(lock_ms, round((job.lock_until - now) * 1000)))
                if job.lock_until > now
                else (job.id, job.token)
                for job in jobs
            ]
            lost: tuple[str, ...] = executor.run(renew(self._key, held, lock_ms))
            return set(lost)

        def lose(jobs: Sequence[ActiveJob]) -> None:
            with contextlib.suppress(RuntimeError):  # the loop is closed: nobody is there any more
                loop.call_soon_threadsafe(self.engine.lose, jobs)

        self._locks = LockKeeper(lock, renew_some, lose, executor.close)
        self._locks.start()
        beat = self._helper(self._beat(min(lock / 4, 1.0)))
        try:
            async with beat:
                yield
        finally:
            self._locks.stop()
            await asyncio.to_thread(self._locks.join, _TO_END)

    async def _beat(self, period: float) -> None:
        while True:
            self._locks.beat()
            await asyncio.sleep(period)

    @contextlib.asynccontextmanager
    async def _marker_watch(self) -> AsyncGenerator[None]:
        clock = self._runtime.clock
        marker = MarkerWait(
            self._runtime.executor,
            self._key,
            client_name=worker_client_name(self._prefix, self._queue, self._terms.name),
            # A clock that somebody else sets cannot be compared with the server's.
            clock=clock if isinstance(clock, SystemClock) else None,
        )
        self._marker = marker
        await marker.open()
        self._watch = MarkerWatch(marker, self._turns, self.engine, self._terms.lock_ms / 1000)
        watching = asyncio.create_task(self._watch.run())
        watching.add_done_callback(self._helper_ended)
        try:
            yield
        finally:
            watching.cancel()
            await asyncio.wait((watching,))
            await marker.aclose()

    @contextlib.asynccontextmanager
    async def _heartbeat(self) -> AsyncGenerator[None]:
        """Signs of life, and word of the end."""
        started = self._runtime.clock.now_ms()

        def tell() -> Beat:
            held = itertools.islice(list(self.slots.held), MOST_TOLD)
            return Beat(
                id=self._who,
                name=self.info.name,
                host=socket.gethostname(),
                pid=os.getpid(),
                started=started,
                at=self._runtime.clock.now_ms(),
                concurrency=self.slots.size,
                running=tuple(job.id for job in held),
                client=self._marker.client_id,
            )

        heartbeat = Heartbeat(self._runtime.executor, self._key, tell)
        self._marker.connected = heartbeat.soon
        try:
            async with self._helper(heartbeat.run()):
                yield
        finally:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_TO_END):
                    await heartbeat.end()

    def _stalled_check(self) -> StalledCheck:
        runtime, terms = self._runtime, self._terms

        async def check() -> StalledReport:
            report = await runtime.drive(
                stalled_check(
                    self._key,
                    now=runtime.clock.now_ms(),
                    interval_ms=terms.stalled_interval_ms,
                    max_stalled=terms.max_stalled,
                    wants=runtime.dispatcher.wants,
                )
            )
            if report.recovered:
                self.engine.look()
            return report

        return StalledCheck(self._queue, check, terms.stalled_interval_ms / 1000)

    @contextlib.asynccontextmanager
    async def _helper(self, work: Coroutine[Any, Any, None]) -> AsyncGenerator[None]:
        """Run `work` meanwhile; should it break, the worker stops."""
        task = asyncio.create_task(work)
        task.add_done_callback(self._helper_ended)
        try:
            yield
        finally:
            for seconds in _TO_GIVE_WAY:  # once more, if a service took no notice
                task.cancel()
                await asyncio.wait((task,), timeout=seconds)
                if task.done():
                    break
            else:
                log.error("queue %s: left behind, as it ignores its end: %s", self._queue, task)

    def _helper_ended(self, task: asyncio.Task[None]) -> None:
        error = None if task.cancelled() else task.exception()
        if error is not None and self._broken is None:
            log.error("queue %s: the worker stops: %s", self._queue, error, exc_info=error)
            self._broken = error
            self.stop.ask(self._terms.grace_ms / 1000)
