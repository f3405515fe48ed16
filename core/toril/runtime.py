"""What both faces of an App share: the server's address, the plugins, and where hooks run."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Callable, Coroutine, Mapping, Sequence
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any, TypeVar, Unpack

from toril.app_options import AppOptions
from toril.carry_out import carry_out, conversation, has_effects, in_series
from toril.clock import Clock, SystemClock
from toril.connection.begun import Begun
from toril.connection.call import Procedure, Series
from toril.connection.endpoint import Endpoint
from toril.connection.execute import Executor, SyncExecutor
from toril.connection.lanes import LanePool
from toril.connection.line import Line
from toril.connection.open import open_endpoint
from toril.connection.scripts import ScriptSet
from toril.context import Context
from toril.declared import DeclaredSettings
from toril.duration import milliseconds
from toril.errors import ConfigurationError, GiveWay
from toril.explaining import gone_facts
from toril.hooks.configuration import Configuration
from toril.hooks.context import Fact
from toril.hooks.dispatch import Dispatcher
from toril.hooks.lifecycle import Lifecycle
from toril.hooks.loader import load_plugins
from toril.hooks.lua import check_lua
from toril.hooks.plugin_set import PluginSet
from toril.job_events import JobEvent
from toril.live import LiveSettings
from toril.metrics import Metrics, Sample
from toril.new_job import check_names
from toril.plugin_host import PluginHost
from toril.setting import Setting
from toril.settings import say
from toril.snapshots import JobRef, Recalled

if TYPE_CHECKING:
    from toril.worker.services import LeasedService

T = TypeVar("T")

_inherited: list[object] = []


_refused: str | None = None


def refuse_apps(reason: str) -> None:
    """From now on nothing in this process can use an App; the error says why."""
    global _refused  # noqa: PLW0603 - it is said of the process
    _refused = reason


class Runtime:
    """One App's server, plugins and declared settings.

    The plugins are loaded and started once, by whichever face is used first, and anew after a fork
    or when the loop they ran on has been closed. Asynchronous hooks run on one loop: the App's own,
    or a thread's if only the synchronous face is used.
    """

    def __init__(
        self,
        target: str | Endpoint | None,
        settings: Sequence[Setting],
        **options: Unpack[AppOptions],
    ) -> None:
        check_names("App", options, AppOptions)
        self._target = None if target is None else open_endpoint(target)
        self._options = options
        self.clock: Clock = options.get("clock") or SystemClock()
        self.rescue_after = milliseconds(options.get("rescue_after", "1m"), "rescue_after")
        self.settings = say("application", settings, "App", self.clock.now_ms())
        self.lanes = LanePool()
        self.context = Context(
            prefix=options.get("prefix", "bull"),
            clock=self.clock,
            lanes=self.lanes,
            live=LiveSettings(self.clock),
        )
        self.declared = DeclaredSettings(self.context.key, self.clock)
        self.metrics = Metrics()
        self._pid = os.getpid()
        self._forget()

    def _forget(self) -> None:
        """As if nothing had been started yet: at first, after `aclose`, and in a forked child."""
        if self._pid != os.getpid():
            # Kept, not closed: the child shares connections and loop with its parent.
            _inherited.append(vars(self).copy())
            self.metrics = Metrics()
        self._pid = os.getpid()
        self._lock = threading.Lock()
        self._started: Future[None] | None = None
        self.started = False
        """Whether the plugins run."""
        self._starter: asyncio.Task[None] | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self.declared.forget()
        self.services: dict[str, list[LeasedService]] = {}

    @property
    def endpoint(self) -> Endpoint:
        """The server. Raises `ConfigurationError` if none is named."""
        return self._target or open_endpoint(None)

    @property
    def place(self) -> str:
        """The server's URL without secrets, for people; a question mark if none is named yet."""
        return str(self._target or "?")

    def _load(self) -> None:
        if _refused is not None:
            raise ConfigurationError(_refused)
        endpoint = self.endpoint
        self.plugins: PluginSet = load_plugins(
            self._options.get("plugins"),
            self._options.get("block", ()),
            Configuration.read(self._options.get("config")),
        )
        self.context.plugins = self.plugins
        self.context.check_settings(self.settings)
        self.dispatcher = Dispatcher(self.plugins)
        self.lifecycle = Lifecycle(self.plugins, PluginHost(self))
        self.scripts = ScriptSet(self.plugins.chunks, self.plugins.scripts, self.plugins.active)
        self.executor = Executor(endpoint, self.scripts)
        self.sync_executor = SyncExecutor(endpoint, self.scripts)

    def named(self, kind: str, name: str) -> Any:
        """What a plugin registered under a name. Raises `ConfigurationError`; see `App.named`."""
        if not self.started:
            raise ConfigurationError(
                f"{kind} {name!r}: the plugins are loaded when the App is first used; "
                "enter `async with app` before"
            )
        return self.plugins.named(kind, name)

    def samples(self) -> tuple[Sample, ...]:
        """All counters and gauges of this process; see `App.metrics`."""
        hooks = self.plugins.samples() if self.started else ()
        return (*self.metrics.samples(), *hooks)

    def _settle_scripts(self) -> None:
        """What plugins bring that are no longer in use is no part of the scripts."""
        self.scripts.replace(self.plugins.chunks, self.plugins.scripts, self.plugins.active)

    async def start(self) -> None:
        """Start the plugins on this loop, unless they run already.

        Raises:
            ConfigurationError: Something configured cannot work; or this App lives on another loop.
            ServerError: Plugins bring Lua, and the server, which has to compile it, did not answer.
        """
        loop = asyncio.get_running_loop()
        if self._pid != os.getpid() or (self._loop is not None and self._loop.is_closed()):
            self._forget()
        if self._loop is loop and self.started:
            return
        with self._lock:
            self._claim_loop(loop)
            first = self._started is None
            if self._started is None:
                self._started = Future()
            starting = self._started
        if first:
            self._starter = asyncio.create_task(self._start(starting))
        await asyncio.shield(asyncio.wrap_future(starting))

    def _claim_loop(self, loop: asyncio.AbstractEventLoop) -> None:
        if self._loop is None:
            self._loop = loop
        elif self._loop is not loop:
            raise ConfigurationError(
                "this App is in use on another event loop; an App has one. Use `app.sync` from "
                "other threads, or make an App per loop"
            )

    async def _start(self, starting: Future[None]) -> None:
        try:
            self._load()
            try:
                await self.drive(check_lua(self.plugins))
                self._settle_scripts()
                await self.lifecycle.start()
                self._settle_scripts()
            except BaseException:
                await self.executor.aclose()
                raise
        except BaseException as error:  # noqa: BLE001 - handed to everybody who waits
            self._started = None
            starting.set_exception(error)
        else:
            self.started = True
            starting.set_result(None)

    def start_sync(self) -> None:
        """Start the plugins for the synchronous face, unless they run already.

        Raises:
            ConfigurationError: Something configured cannot work; or this is the App's loop, which a
                synchronous call would block.
        """
        if self._pid != os.getpid() or (self._loop is not None and self._loop.is_closed()):
            self._forget()
        if self._loop is not None and self._loop is _running_loop():
            raise ConfigurationError(
                "app.sync would block the event loop on which this App runs; use `await`"
            )
        with self._lock:
            first = self._started is None
            if self._started is None:
                self._started = Future()
            starting = self._started
        if first:
            try:
                self._load()
                try:
                    self.drive_sync(check_lua(self.plugins))
                    self._settle_scripts()
                    self.lifecycle.start_sync(self.run)
                    self._settle_scripts()
                except BaseException:
                    self.sync_executor.close()
                    raise
            except BaseException as error:
                self._started = None
                starting.set_exception(error)
                raise
            self.started = True
            starting.set_result(None)
        starting.result()

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Run `work` on the loop of the hooks, in another thread, and wait for it here."""
        with self._lock:
            if self._loop is None:
                self._loop = asyncio.new_event_loop()
                self._thread = threading.Thread(
                    target=self._loop.run_forever, name="toril-hooks", daemon=True
                )
                self._thread.start()
            loop = self._loop
        return asyncio.run_coroutine_threadsafe(work, loop).result()

    async def drive(self, procedure: Procedure[T]) -> T:
        """Carry out a procedure on this loop and tell the plugins what it did.

        A cancellation counts between two requests, see `carry_out`.
        """
        try:
            request = next(procedure)
            while True:
                try:
                    if isinstance(request, Series):
                        result = await in_series(self.executor, self.dispatcher, request)
                    else:
                        result = await carry_out(self.executor, self.dispatcher, request)
                except Exception as error:  # noqa: BLE001 - the procedure decides what it means
                    request = procedure.throw(error)
                    continue
                request = procedure.send(result)
        except StopIteration as done:
            value: T = done.value
            return value
        finally:
            procedure.close()

    def begin(
        self,
        procedure: Procedure[T],
        untold: list[JobEvent],
        over: Callable[[Begun[T]], None],
        line: Line,
    ) -> Begun[T]:
        """Begin a procedure, which goes on by itself; the caller tells the plugins what it did.

        Args:
            procedure: What is done; it has no series.
            untold: Takes what the plugins shall hear.
            over: Called when it has ended, perhaps before this returns.
            line: The row that it joins.
        """
        steps = conversation(self.executor, self.dispatcher, procedure, untold)
        return Begun(self.executor, steps, over, line)

    async def perform(self, procedure: Procedure[T], queues: Sequence[str] = ()) -> T:
        """`drive`, once everything is ready for it."""
        await self.prepare(queues)
        return await self.drive(procedure)

    def is_ready(self, queue: str) -> bool:
        """Whether `prepare` would find nothing to do for a queue, on the loop that runs now."""
        return (
            self._loop is asyncio.get_running_loop()
            and self._pid == os.getpid()
            and self.started
            and queue not in self.declared.unpublished
        )

    async def prepare(self, queues: Sequence[str] = ()) -> None:
        """Start the plugins, and publish what these queues were declared with."""
        await self.start()
        if self.declared.unpublished:
            for publishing in self.declared.publishing(queues, self.plugins.settings):
                await self.drive(publishing)

    def drive_sync(self, procedure: Procedure[T], untold: list[JobEvent] | None = None) -> T:
        """`drive` in the calling thread. `untold`: takes the events in place of the plugins."""
        try:
            request = next(procedure)
            while True:
                try:
                    if isinstance(request, Series):
                        result = [self.drive_sync(each, untold) for each in request.procedures]
                    else:
                        result = self.sync_executor.run(request)
                except Exception as error:  # noqa: BLE001 - the procedure decides what it means
                    request = procedure.throw(error)
                    continue
                if has_effects(result):
                    self.dispatcher.note(result)
                    if untold is None:
                        self.dispatcher.publish_sync(result.events, self.run)
                    else:
                        untold += result.events
                    result = result.value
                request = procedure.send(result)
        except StopIteration as done:
            value: T = done.value
            return value
        finally:
            procedure.close()

    def perform_sync(self, procedure: Procedure[T], queues: Sequence[str] = ()) -> T:
        """`perform` in the calling thread."""
        self.start_sync()
        if self.declared.unpublished:
            for publishing in self.declared.publishing(queues, self.plugins.settings):
                self.drive_sync(publishing)
        return self.drive_sync(procedure)

    def explain_gone_sync(self, job: JobRef) -> list[Fact]:
        """What plugins know of a job that is gone, asked in the calling thread."""
        return gone_facts(self.recall_sync(job), self.explain_sync(job))

    def recall_sync(self, job: JobRef) -> Recalled | None:
        """`Dispatcher.recall` in the calling thread."""
        if not self.plugins.functions("toril_recall_job"):
            return None
        return self.run(self.dispatcher.recall(job))

    def explain_sync(self, job: JobRef) -> list[Fact]:
        """`Dispatcher.explain` in the calling thread."""
        if not self.plugins.functions("toril_explain_job"):
            return []
        return [fact for _, fact in self.run(self.dispatcher.explain(job))]

    def erase_sync(self, job: JobRef) -> Mapping[str, str]:
        """`Dispatcher.erase` in the calling thread."""
        if not self.plugins.functions("toril_erase_job"):
            return {}
        return self.run(self.dispatcher.erase(job))

    async def run_services(self, queue: str) -> bool:
        """See `App.run_services`; the plugins have been started."""
        from toril.worker.services import services_of

        if queue not in self.services:
            self.services[queue] = services_of(self, queue)
        led: list[bool] = []
        way: GiveWay | None = None
        for service in self.services[queue]:
            try:
                led.append(await service.serve_now())
            except GiveWay as given:  # that one is another process's; the others are not
                way = way or given
        if way is not None:
            raise way
        return all(led)

    async def aclose(self) -> None:
        """Stop the plugins and close the connections. The App can be used again."""
        if self._starter is not None and self._loop is asyncio.get_running_loop():
            await asyncio.wait((self._starter,))  # who began it may have been cancelled meanwhile
        if self._pid != os.getpid() or not self.started:
            return
        if self._thread is not None:
            await asyncio.to_thread(self.close_sync)
            return
        await self.lifecycle.stop()
        await self.executor.aclose()
        self.sync_executor.close()
        self._forget()

    def close_sync(self) -> None:
        """The same without a loop here."""
        if self._pid != os.getpid() or not self.started:
            return
        self.lifecycle.stop_sync(self.run)
        self.sync_executor.close()
        loop, thread = self._loop, self._thread
        if loop is not None and thread is not None:
            self.run(self.executor.aclose())
            loop.call_soon_threadsafe(loop.stop)
            thread.join()
            loop.close()
        self._forget()


def _running_loop() -> asyncio.AbstractEventLoop | None:
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None
