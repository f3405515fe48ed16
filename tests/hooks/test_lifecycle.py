"""Starting and stopping plugins, their background work, and what a context offers."""

from __future__ import annotations

import asyncio
import threading
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import pytest
from tests.hooks.conftest import Load, StubHost
from tests.hooks.test_dispatch import Elsewhere, elsewhere

from toril.errors import ConfigurationError
from toril.hooks import lifecycle as module
from toril.hooks.lifecycle import Lifecycle
from toril.plugins import (
    FinishedJob,
    JobSaved,
    JobSnapshot,
    PluginContext,
    Registry,
    ServiceContext,
    Setting,
    hookimpl,
    hookspec,
)

__all__ = ["elsewhere"]


class Plugin:
    """Notes in `log` when it starts and stops; `fail` says where it fails."""

    def __init__(self, name: str, log: list[str], fail: str = "") -> None:
        self.toril_name = name
        self.log = log
        self.fail = fail

    @hookimpl
    async def toril_start(self, context: PluginContext) -> None:
        self.log.append(f"start {context.name}")
        if self.fail == "start":
            raise RuntimeError("cannot open")
        if self.fail == "hang":
            await asyncio.Event().wait()

    @hookimpl
    def toril_stop(self) -> None:
        self.log.append(f"stop {self.toril_name}")
        if self.fail == "stop":
            raise RuntimeError("cannot close")

    @hookimpl
    def toril_jobs_saved(self) -> None:
        pass


async def test_plugins_stop_in_reverse_order_whatever_one_of_them_does(
    load: Load, host: StubHost, caplog: pytest.LogCaptureFixture
) -> None:
    log: list[str] = []
    plugins = load([Plugin("a", log), Plugin("b", log, fail="stop"), Plugin("c", log)])
    lifecycle = Lifecycle(plugins, host)
    await lifecycle.start()
    await lifecycle.stop()
    assert log == ["start a", "start b", "start c", "stop c", "stop b", "stop a"]
    assert "cannot close" in caplog.text


@pytest.mark.parametrize("fail", ["start", "hang"])
async def test_a_plugin_that_cannot_start_is_broken_and_its_hooks_are_withdrawn(
    fail: str, load: Load, host: StubHost, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "START_DEADLINE", 0.02)
    log: list[str] = []
    plugins = load([Plugin("a", log), Plugin("bad", log, fail=fail), Plugin("c", log)])
    lifecycle = Lifecycle(plugins, host)
    await lifecycle.start()
    assert log == ["start a", "start bad", "stop bad", "start c"]
    assert plugins.active == {"a", "c"}
    info = plugins.info("bad")
    assert info is not None
    assert info.status == "broken"
    assert ("cannot open" if fail == "start" else "no answer within") in (info.error or "")
    assert [each.plugin for each in plugins.functions("toril_jobs_saved")] == ["a", "c"]
    await lifecycle.stop()
    assert log[4:] == ["stop c", "stop a"]


async def test_withdrawing_the_last_listener_ends_the_wish_for_events(
    load: Load, host: StubHost
) -> None:
    plugins = load([Plugin("bad", [], fail="start")])
    assert plugins.wants == {"toril_jobs_saved"}
    await Lifecycle(plugins, host).start()
    assert plugins.wants == frozenset()


async def test_a_required_plugin_that_cannot_start_is_fatal_and_the_others_stop(
    load: Load, host: StubHost
) -> None:
    log: list[str] = []
    plugins = load(
        [Plugin("a", log), Plugin("bad", log, fail="start"), Plugin("c", log)],
        config={"required": ["bad"]},
    )
    with pytest.raises(ConfigurationError, match=r"'bad', which .* requires.*cannot open"):
        await Lifecycle(plugins, host).start()
    assert log == ["start a", "start bad", "stop bad", "stop a"]


async def test_wrong_options_are_fatal_and_the_others_stop(load: Load, host: StubHost) -> None:
    @dataclass(frozen=True)
    class Options:
        period: str = "5s"

    class Wants:
        toril_name = "wants"

        @hookimpl
        def toril_start(self, context: PluginContext) -> None:
            context.config(Options)

    log: list[str] = []
    plugins = load([Plugin("a", log), Wants()], config={"wants": {"perod": "1s"}})
    with pytest.raises(ConfigurationError, match="'perod'; did you mean 'period'"):
        await Lifecycle(plugins, host).start()
    assert log == ["start a", "stop a"]


async def test_options_that_have_no_effect_are_named(
    load: Load, host: StubHost, caplog: pytest.LogCaptureFixture
) -> None:
    @dataclass(frozen=True)
    class Options:
        period: str = "5s"

    class Reads:
        toril_name = "reads"

        @hookimpl
        def toril_start(self, context: PluginContext) -> None:
            context.config(Options)

    config: dict[str, Any] = {"reads": {"period": "1s"}, "ignores": {"period": "1s"}}
    plugins = load([Reads(), Plugin("ignores", [])], config=config)
    await Lifecycle(plugins, host).start()
    (warning,) = [each.getMessage() for each in caplog.records if each.levelname == "WARNING"]
    assert warning == "App(config=…): the options of plugin 'ignores' have no effect: it reads none"


async def test_spawned_work_is_cancelled_before_the_plugin_stops(
    load: Load, host: StubHost
) -> None:
    log: list[str] = []

    class Spawns:
        @hookimpl
        def toril_start(self, context: PluginContext) -> None:
            context.spawn(self.work())

        async def work(self) -> None:
            log.append("working")
            try:
                await asyncio.Event().wait()
            finally:
                log.append("cancelled")

        @hookimpl
        def toril_stop(self) -> None:
            log.append("stop")

    lifecycle = Lifecycle(load([Spawns]), host)
    await lifecycle.start()
    await asyncio.sleep(0)
    await lifecycle.stop()
    assert log == ["working", "cancelled", "stop"]


async def test_spawned_work_that_fails_is_logged(
    load: Load, host: StubHost, caplog: pytest.LogCaptureFixture
) -> None:
    class Spawns:
        @hookimpl
        def toril_start(self, context: PluginContext) -> None:
            context.spawn(self.work())

        async def work(self) -> None:
            raise RuntimeError("work broke")

    lifecycle = Lifecycle(load([Spawns]), host)
    await lifecycle.start()
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert "work of plugin 'Spawns' ended: RuntimeError: work broke" in caplog.text
    await lifecycle.stop()


async def test_work_that_ignores_its_cancellation_does_not_hold_up_the_stop(
    load: Load, host: StubHost, caplog: pytest.LogCaptureFixture
) -> None:
    ended = asyncio.Event()

    class Stubborn:
        @hookimpl
        def toril_start(self, context: PluginContext) -> None:
            context.spawn(self.work())

        async def work(self) -> None:
            while not ended.is_set():
                try:
                    await ended.wait()
                except asyncio.CancelledError:
                    continue

    lifecycle = Lifecycle(load([Stubborn]), host)
    await lifecycle.start()
    await asyncio.sleep(0)
    await lifecycle.stop(grace=0.02)
    assert "work of Stubborn did not end when it was cancelled" in caplog.text
    ended.set()
    await asyncio.sleep(0)


def test_without_a_loop_all_of_it_runs_on_the_one_elsewhere(
    load: Load, host: StubHost, elsewhere: Elsewhere
) -> None:
    log: list[str] = []
    working = threading.Event()

    class Spawns:
        toril_name = "spawns"

        @hookimpl
        def toril_start(self, context: PluginContext) -> None:
            log.append("plain" if threading.get_ident() != elsewhere.thread.ident else "there")
            context.spawn(self.work())

        async def work(self) -> None:
            assert threading.get_ident() == elsewhere.thread.ident
            working.set()
            try:
                await asyncio.Event().wait()
            finally:
                log.append("cancelled")

    lifecycle = Lifecycle(load([Plugin("a", log), Spawns]), host)
    lifecycle.start_sync(elsewhere.run)
    assert working.wait(1)
    lifecycle.stop_sync(elsewhere.run)
    assert sorted(log) == ["cancelled", "plain", "start a", "stop a"]


@dataclass(frozen=True)
class Options:
    size: int = 3


async def test_what_a_context_offers(load: Load, host: StubHost) -> None:
    class Mark(Setting):
        name = "mark"

    plugins = load([Plugin("a", [])], config={"a": {"size": 7}})
    context = Lifecycle(plugins, host).context("a")
    assert context.config(Options) == Options(7)
    assert context.now_ms() == 1_000_000
    assert context.now() == datetime(1970, 1, 1, 0, 16, 40, tzinfo=UTC)
    assert context.clock is host.clock
    event = JobSaved(JobSnapshot("mail", "1", {}))
    assert await context.run_script("mail", "sweep", {"x": 1}) == "ran"
    assert await context.jobs("mail", ["1"]) == [None]
    assert (await context.finished("mail", "failed", limit=5)).jobs == ()
    assert await context.live("mail", Mark) == ()
    await context.publish([event])
    assert host.asked == [
        ("script", "mail", "a", "sweep", {"x": 1}),
        ("jobs", "mail", ("1",)),
        ("finished", "mail", "failed", None, 5, None),
        ("live", "mail", Mark),
        ("publish", event),
    ]


async def test_a_services_context_is_of_one_queue_and_carries_the_lease(
    load: Load, host: StubHost
) -> None:
    context = ServiceContext(
        Lifecycle(load([Plugin("a", [])]), host).context("a"), "sweep", "mail", "t1"
    )
    await context.run_script("slice", {"x": 1})
    await context.run_script("slice", {"token": "other"})
    await context.jobs(["1"])
    await context.finished("completed", before=9)
    assert host.asked == [
        ("script", "mail", "a", "slice", {"token": "t1", "service": "sweep", "x": 1}),
        ("script", "mail", "a", "slice", {"token": "other", "service": "sweep"}),
        ("jobs", "mail", ("1",)),
        ("finished", "mail", "completed", None, 100, 9),
    ]
    assert context.now_ms() == 1_000_000


class Specs:
    """Hooks of a plugin of somebody else."""

    @hookspec
    def toril_plan_colour(self, job: FinishedJob) -> str | None:
        raise NotImplementedError

    @hookspec
    def toril_review_colour(self, job: FinishedJob, costly: object) -> str | None:
        raise NotImplementedError


async def test_a_plugin_calls_the_hooks_it_brought(load: Load, host: StubHost) -> None:
    class Painter:
        toril_name = "painter"

        @hookimpl
        def toril_register(self, registry: Registry) -> None:
            registry.hookspecs(Specs)

    class Red:
        toril_name = "red"

        @hookimpl
        def toril_plan_colour(self, job: FinishedJob) -> str:
            return f"red {job.id}"

        @hookimpl
        async def toril_review_colour(self, costly: object) -> str:
            return f"looked at {costly}"

    class Blue:
        toril_name = "blue"

        @hookimpl
        def toril_plan_colour(self) -> None:
            return None

    context = Lifecycle(load([Painter, Red, Blue]), host).context("painter")
    job = FinishedJob("mail", "1", {}, "completed")
    assert context.call("toril_plan_colour", job=job) == [("red", "red 1"), ("blue", None)]
    assert await context.call_async("toril_review_colour", job=job, costly="flows") == [
        ("red", "looked at flows")
    ]
    assert [each.names("costly") for each in context.implementations("toril_review_colour")] == [
        True
    ]
    assert context.implementations("toril_nothing") == ()
