"""What every plugin keeps to, as tests that its author inherits."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

import msgspec
import pytest

from toril.app_options import AppOptions
from toril.errors import Reject
from toril.hooks.function import HookFunction
from toril.hooks.plugin_set import PluginInfo
from toril.snapshots import Draft, FinishedJob, JobSnapshot, Removal
from toril.testing.app import DrivenApp
from toril.testing.checks import LeakCheck
from toril.testing.jobs import CREATED, HOSTILE_DATA, finished_job, hostile_jobs
from toril.testing.purity import plainly
from toril.types import Json
from toril.worker import ActiveJob


class PluginContract:
    """What every plugin keeps to. Inherit it in a class of tests, and name yours.

        class TestTiers(PluginContract):
            plugin = acme_tiers

    A plugin that keeps to it can be started and stopped again and again, its plain functions are
    pure, its hooks take whatever job any program adds, and it leaves nothing of a job that is gone.
    """

    plugin: object
    """The plugin: a module, a class, or, if it is installed, its name."""
    config: Mapping[str, Any] = MappingProxyType({})
    """The configuration of the App, as for `App(config=…)`."""
    queue: str = "jobs"
    """The queue whose jobs it is tried on."""
    samples: Sequence[Json] = ({},)
    """Payloads as it expects them; those of `HOSTILE_DATA` come on top."""

    @pytest.fixture
    def toril_options(self) -> AppOptions:
        """What `toril_app` is made with in this class."""
        return {"plugins": [self.plugin, "*"], "config": self.config}

    # What contracts are written with

    def info(self, app: DrivenApp) -> PluginInfo:
        """The plugin as this App, which has started, loaded it."""
        if isinstance(self.plugin, str):
            return next(info for info in app.runtime.plugins.infos if info.name == self.plugin)
        given = [info for info in app.runtime.plugins.infos if info.origin.startswith("given in")]
        return next(info for info in given if info.name != "recorder")

    async def functions(self, app: DrivenApp, hook: str) -> list[HookFunction]:
        """The plugin's functions for a hook; none if it is not in use."""
        await app.runtime.start()
        name = self.info(app).name
        return [each for each in app.runtime.plugins.functions(hook) if each.plugin == name]

    def assert_no_errors(self, app: DrivenApp) -> None:
        """Assert that nothing of the plugin has failed so far; a `Reject` is no failure."""
        name = self.info(app).name
        for (plugin, what), counts in app.runtime.plugins.counts().items():
            failed = counts.errors + counts.timeouts
            assert plugin != name or not failed, (
                f"{what} of plugin {name!r} failed {failed} times; the log says how"
            )

    def finished(self) -> list[FinishedJob]:
        """Finished jobs to ask it about: those of `samples`, and hostile ones."""
        given = [finished_job(self.queue, "job", data) for data in self.samples]
        given += [finished_job(self.queue, "job", d, outcome="failed") for d in self.samples]
        return [*given, *hostile_jobs()]

    # The contract

    @pytest.mark.asyncio
    async def test_it_is_in_use(self, toril_app: DrivenApp) -> None:
        await toril_app.runtime.start()
        info = self.info(toril_app)
        assert info.status == "active", info.error
        assert info.hooks, f"{info.name} implements no hook"

    @pytest.mark.asyncio
    async def test_it_starts_and_stops_again_and_again(self, toril_app: DrivenApp) -> None:
        for _ in range(3):
            threads, tasks = threads_of_plugins(), asyncio.all_tasks()
            async with toril_app:
                assert self.info(toril_app).status == "active", self.info(toril_app).error
                counts = toril_app.runtime.plugins.counts
            assert not [each for each in counts().values() if each.errors + each.timeouts]
            assert asyncio.all_tasks() <= tasks, (
                "it left work behind; `context.spawn` ends by itself"
            )
            await _ended(threads_of_plugins() - threads)

    @pytest.mark.asyncio
    async def test_its_plan_hooks_are_pure(self, toril_app: DrivenApp) -> None:
        for job in self.finished():
            for function in await self.functions(toril_app, "toril_plan_finish"):
                ask_purely(function, job=job)
            draft = Draft(self.queue, job.id, job.name, job.data, {}, ())
            for function in await self.functions(toril_app, "toril_plan_save"):
                ask_purely(function, draft=draft)
        removal = Removal(self.queue, "operator", ["1"], None, CREATED)
        for function in await self.functions(toril_app, "toril_plan_remove"):
            ask_purely(function, removal=removal)

    @pytest.mark.asyncio
    async def test_it_takes_any_job(self, toril_app: DrivenApp, assert_no_leaks: LeakCheck) -> None:
        """Jobs with any payload are added, completed, failed, retried, explained and removed."""

        async def handle(job: ActiveJob) -> Json:
            if job.name == "fails":
                raise ValueError("on purpose")
            return job.data

        toril_app.worker(self.queue, handle)
        queue = toril_app.queue(self.queue)
        for data in (*self.samples, *HOSTILE_DATA):
            for name in ("works", "fails"):
                try:
                    await queue.add(name, data)
                except Reject:
                    continue
        await toril_app.drain()
        await queue.retry_all()
        await toril_app.drain()
        async for job in queue.jobs():
            await job.explain()
            try:
                await job.remove()
            except Reject:
                continue
        await toril_app.sweep()
        self.assert_no_errors(toril_app)
        assert_no_leaks()


def threads_of_plugins() -> set[threading.Thread]:
    """The threads that would not end by themselves; those of a loop for blocking calls do."""
    found = threading.enumerate()
    return {each for each in found if not each.daemon and not each.name.startswith("asyncio_")}


async def _ended(threads: set[threading.Thread]) -> None:
    """Assert that these threads end; one that was told to may take a moment."""
    for _ in range(100):
        if not any(thread.is_alive() for thread in threads):
            return
        await asyncio.sleep(0.01)
    raise AssertionError(f"it left threads behind: {threads}")


def ask_purely(function: HookFunction, **arguments: Any) -> Any:
    """Call a plain function of a plugin, which must be pure, with the arguments that it names.

    Returns its answer; None if it refuses by `Reject`.

    Raises:
        AssertionError: It did I/O, answered something else the second time, or changed what it was
            given.
        Exception: Whatever it raises.
    """
    named = {name: value for name, value in arguments.items() if function.names(name)}
    before = {name: _content(value) for name, value in named.items()}
    try:
        return plainly(function.function, **named)
    except Reject:
        return None
    finally:
        for name, value in named.items():
            assert _content(value) == before[name], f"{function.hook} changed its {name}"


def _content(value: object) -> object:
    """What a function could change about one of its arguments, in a form to be compared."""
    if isinstance(value, JobSnapshot):
        return dict(value.fields), msgspec.json.encode(value.data)
    if isinstance(value, Draft):
        return msgspec.json.encode([value.data, dict(value.opts)])
    return repr(value)
