"""Starting and stopping the plugins of one App."""

from __future__ import annotations

import asyncio
import inspect
import logging
import time
from collections.abc import Coroutine
from typing import Any, Final, TypeVar

from toril.errors import ConfigurationError
from toril.hooks.context import Host, PluginContext
from toril.hooks.function import (
    HookFunction,
    Run,
    Settle,
    complete,
    describe,
    settle,
    settle_on,
)
from toril.hooks.plugin_set import PluginSet

T = TypeVar("T")

log: Final = logging.getLogger("toril.hooks")

START_DEADLINE: Final = 30.0
"""Seconds that one plugin may take to start."""

STOP_DEADLINE: Final = 10.0
"""Seconds that all plugins together have to stop, unless told otherwise."""

_START: Final = "toril_start"
_STOP: Final = "toril_stop"


class Lifecycle:
    """Starts the plugins of an App in order and stops them in reverse, once each.

    `host` is what the App does for its plugins.
    """

    def __init__(self, plugins: PluginSet, host: Host) -> None:
        self._plugins = plugins
        self._host = host
        self._contexts: dict[str, PluginContext] = {}
        self._started: list[str] = []
        self._work: dict[asyncio.Task[None], str] = {}
        self._run: Run | None = None

    def context(self, plugin: str) -> PluginContext:
        """The context of a plugin; the same one every time."""
        found = self._contexts.get(plugin)
        if found is None:
            found = self._contexts[plugin] = PluginContext(
                plugin,
                self._host,
                self._plugins.configuration,
                self._plugins.functions,
                self._plugins.named,
                self._spawn,
            )
        return found

    async def start(self) -> None:
        """Start every plugin, on this loop.

        One that fails is broken from now on and its hooks are withdrawn.

        Raises:
            ConfigurationError: it is required, or its options are wrong; those that had started are
                stopped again.
        """
        await self._start(settle)

    def start_sync(self, run: Run) -> None:
        """The same without a loop here: `run` does what is asynchronous on one elsewhere."""
        self._run = run
        complete(self._start(settle_on(run)))

    async def stop(self, grace: float = STOP_DEADLINE) -> None:
        """Cancel the work that plugins spawned, then stop them, all within `grace` seconds."""
        await self._stop(settle, grace)

    def stop_sync(self, run: Run, grace: float = STOP_DEADLINE) -> None:
        """The same without a loop here."""
        complete(self._stop(settle_on(run), grace))

    async def _start(self, wait: Settle) -> None:
        self._started.clear()
        for function in self._plugins.functions(_START):
            self._started.append(function.plugin)
            try:
                await _call(function, self.context(function.plugin), wait, START_DEADLINE)
            except ConfigurationError:
                # A mistake that somebody just made. Without the plugin the program would run, and
                # do what nobody asked for.
                await self._stop(wait, STOP_DEADLINE)
                raise
            except Exception as error:  # noqa: BLE001 - guard place: a plugin stops nobody else
                await self._withdraw(function, error, wait)
        configuration = self._plugins.configuration
        for name in configuration.unread(self._plugins.active):
            log.warning(
                "%s: the options of plugin %r have no effect: it reads none",
                configuration.source,
                name,
            )
        log.info("plugins: %s", self._plugins.summary())

    async def _withdraw(self, function: HookFunction, error: Exception, wait: Settle) -> None:
        name = function.plugin
        log.error(
            "plugin %r (%s) could not start: %s",
            name,
            function.version,
            describe(error),
            exc_info=error,
        )
        await self._stop_one(name, wait, time.monotonic() + STOP_DEADLINE)
        self._started.remove(name)
        self._plugins.withdraw(name, f"could not start: {describe(error)}")
        try:
            self._plugins.check_required()
        except ConfigurationError as required:
            await self._stop(wait, STOP_DEADLINE)
            raise required from error

    async def _stop(self, wait: Settle, grace: float) -> None:
        until = time.monotonic() + grace
        # A plugin that only stops has no start to be reversed; it goes first.
        starts = {each.plugin for each in self._plugins.functions(_START)}
        names = [
            each.plugin for each in self._plugins.functions(_STOP) if each.plugin not in starts
        ]
        for name in (*names, *reversed(self._started)):
            await self._stop_one(name, wait, until)
        self._started.clear()
        # What plugins that do not stop have spawned.
        await self._cancel_work(None, wait, until)

    async def _stop_one(self, name: str, wait: Settle, until: float) -> None:
        await self._cancel_work(name, wait, until)
        for function in self._plugins.functions(_STOP):
            if function.plugin == name:
                try:
                    left = max(0.05, until - time.monotonic())
                    await _call(function, self.context(name), wait, left)
                except Exception as error:  # noqa: BLE001 - guard place: the others still stop
                    function.failed(error, lambda: "")

    def _spawn(self, plugin: str, work: Coroutine[Any, Any, None]) -> None:
        try:
            asyncio.get_running_loop()
        except RuntimeError:
            if self._run is None:
                work.close()
                raise
            self._run(self._spawn_here(plugin, work))
        else:
            self._supervise(plugin, work)

    async def _spawn_here(self, plugin: str, work: Coroutine[Any, Any, None]) -> None:
        self._supervise(plugin, work)

    def _supervise(self, plugin: str, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work, name=f"toril-plugin-{plugin}")
        self._work[task] = plugin
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        plugin = self._work.pop(task, "")
        error = None if task.cancelled() else task.exception()
        if error is not None:
            log.error("work of plugin %r ended: %s", plugin, describe(error), exc_info=error)

    async def _cancel_work(self, plugin: str | None, wait: Settle, until: float) -> None:
        tasks = [task for task, owner in self._work.items() if plugin in (None, owner)]
        if not tasks:
            return
        left = max(0.05, until - time.monotonic())
        try:
            await wait(_cancel(tasks), left)
        except TimeoutError:
            owners = sorted({self._work[task] for task in tasks if task in self._work})
            log.error(  # noqa: TRY400 - where it waits, not here, is of interest
                "work of %s did not end when it was cancelled", ", ".join(owners)
            )


async def _cancel(tasks: list[asyncio.Task[None]]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks)


async def _call(
    function: HookFunction, context: PluginContext, wait: Settle, deadline: float
) -> None:
    result = function.function(*[context][: len(function.argnames)])
    if result is not None and inspect.isawaitable(result):
        await wait(result, deadline)
