"""What retention counts: each counter after what it counts, through the API and both exporters."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import redis
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from prometheus_client import CollectorRegistry
from tests.scenarios.stage import until
from tests.support.place import Place, foreign_finish, place

from toril import App, Flow, hookimpl
from toril.plugins import FinishedJob, GiveWay, Json, PluginContext
from toril_plugins import (
    Ceiling,
    Due,
    Hold,
    Holds,
    Keep,
    Postpone,
    Requires,
    Retention,
    Verdicts,
    hold,
)
from toril_plugins.otel_metrics import OtelMetrics
from toril_plugins.prometheus import Collector


class Acme:
    """A strategy, a reviewer and a copier that do as a job's name says."""

    toril_name = "acme"

    @hookimpl
    def toril_plan_retention(self, job: FinishedJob) -> Keep | None:
        if job.name == "broken":
            raise RuntimeError("no database")
        return Keep("1h") if job.name == "acme" else None

    @hookimpl
    def toril_review_removal(self, due: Sequence[Due]) -> Verdicts:
        return {each.job.id: Postpone("9d", "later") for each in due if each.job.name == "later"}

    @hookimpl
    def toril_before_removal(self, jobs: Sequence[FinishedJob]) -> None:
        if any(job.name == "uncopied" for job in jobs):
            raise RuntimeError("the disk is full")


def counted(app: App, name: str, label: str) -> Mapping[str, float]:
    found: dict[str, float] = {}
    for each in app.metrics():
        if each.name == name:
            key = each.labels[label]
            found[key] = found.get(key, 0) + each.value
    return found


async def everything(here: Place) -> None:
    """Let happen what is counted."""
    await here.queue.set(Retention(completed="1h", failed="1h"))
    await hold(here.queue, Hold(id="held", why="audit"))
    own = Retention(completed="2h")
    for id, name, settings in (
        ("q1", "do", ()), ("q2", "do", ()), ("job", "do", (own,)), ("acme", "acme", ()),
        ("held", "do", ()), ("broken", "broken", ()), ("later", "later", ()),
    ):  # fmt: skip
        await here.finish(id, name=name, settings=settings)
    await here.finish("f1", "f2", "f3", name="fail")
    await here.app.add_flow(Flow("p", "top", children=[Flow("q", "fail", id="kid")]))
    await here.run()
    await here.queue.set(Ceiling(failed=2))
    for later in ("0s", "3h", "5s", "5s"):
        await here.sweep(later)


async def test_through_the_api(redis_url: str, tmp_path: Path) -> None:
    config = {"archive": {"sqlite": str(tmp_path / "a.db")}}
    async with place(redis_url, plugins=[Acme()], config=config) as here:
        await everything(here)
        app = here.app
        assert counted(app, "toril_removed_total", "by") == {
            "queue": 3, "job": 1, "plugin acme": 1, "ceiling of the queue": 2,
        }  # fmt: skip
        assert counted(app, "toril_kept", "outcome") == {"completed": 3, "failed": 1}
        assert counted(app, "toril_held", "outcome") == {"completed": 1, "failed": 0}
        assert counted(app, "toril_archived_total", "store") == {"sqlite": 7}
        parked = counted(app, "toril_parked_total", "why")
        assert parked.keys() == {"held", "blocked", "undecided", "postponed"}
        assert (parked["held"], parked["postponed"]) == (1, 1)
        assert counted(app, "toril_retention_errors_total", "plugin").keys() == {"acme"}
        assert counted(app, "toril_sweep_lag_seconds", "queue").keys() == {"q"}
        assert counted(app, "toril_longest_script_ms", "queue")["q"] > 0


async def test_the_lag_is_how_late_it_was(redis_url: str) -> None:
    async with place(redis_url, Retention(completed="1h")) as here:
        await here.finish("a")
        await here.sweep("90m")
        assert counted(here.app, "toril_sweep_lag_seconds", "queue")["q"] == pytest.approx(1800, 1)
        await here.sweep("1m")
        assert counted(here.app, "toril_sweep_lag_seconds", "queue")["q"] == 0


@pytest.mark.parametrize("slow", ["adopt", "sweep", "settle", "hold", "tree_look", "tree_remove"])
async def test_the_longest_script_is_any_of_a_sweep(
    redis_url: str, monkeypatch: pytest.MonkeyPatch, slow: str
) -> None:
    run_script = PluginContext.run_script

    async def run_slowly(self: PluginContext, queue: str, name: str, args: Json = None) -> Json:
        if name == slow:
            await asyncio.sleep(0.04)
        return await run_script(self, queue, name, args)

    async with place(redis_url, plugins=[Acme()]) as here:
        await here.queue.set(Retention(completed="1h"))
        await here.queue.set(Holds(Hold(name="held")))
        await here.finish("a")
        whole = Retention(completed=Keep("1h", flow=True))
        await here.app.add_flow(Flow("q", "do", id="top", children=[Flow("p", "do")]), whole)
        for queue in ("p", "q"):
            await here.app.worker(queue, lambda _: None).run(burst=True)
        monkeypatch.setattr(PluginContext, "run_script", run_slowly)
        await here.sweep("2h")
        assert await here.kept() == set()
        assert counted(here.app, "toril_longest_script_ms", "queue")["q"] >= 40


async def test_errors_in_a_flow_are_counted(redis_url: str) -> None:
    async with place(redis_url, plugins=[Acme()]) as here:
        whole = Retention(completed=Keep("1h", flow=True))
        await here.app.add_flow(Flow("q", "uncopied", id="top", children=[Flow("p", "do")]), whole)
        for queue in ("p", "q"):
            await here.app.worker(queue, lambda _: None).run(burst=True)
        await here.sweep("2h")
        assert await here.kept() == {"top"}
        found = counted(here.app, "toril_retention_errors_total", "hook")
        assert found == {"toril_before_removal": 1}


async def test_errors_name_plugin_and_hook(redis_url: str, raw: redis.Redis) -> None:
    async with place(redis_url, plugins=[Acme()]) as here:
        await here.queue.set(Retention(completed="1h"))
        await here.finish("a", name="uncopied")
        foreign_finish(raw, "f", at=here.clock.now_ms(), data={}, name="broken")
        await here.sweep("2h")
        found = counted(here.app, "toril_retention_errors_total", "hook")
        assert found.keys() == {"toril_plan_retention", "toril_before_removal"}


async def test_a_flow_of_which_something_stays(redis_url: str) -> None:
    async with place(redis_url) as here:
        whole = Retention(completed=Keep("1h", flow=True))
        children = [Flow("other", "do", id="kid")]
        await here.app.add_flow(Flow("q", "do", id="top", children=children), whole)
        await hold(here.app.queue("other"), Hold(id="kid", why="audit"))
        for queue in ("other", "q"):
            await here.app.worker(queue, lambda _: None).run(burst=True)
        await here.sweep("2h")
        assert counted(here.app, "toril_parked_total", "why")["flow"] == 1


SERIES = {
    "toril_kept", "toril_held", "toril_removed_total", "toril_archived_total", "toril_parked_total",
    "toril_retention_errors_total", "toril_sweep_lag_seconds", "toril_longest_script_ms",
}  # fmt: skip


async def test_through_prometheus(redis_url: str, tmp_path: Path) -> None:
    config = {"archive": {"sqlite": str(tmp_path / "a.db")}}
    async with place(redis_url, plugins=[Acme()], config=config) as here:
        await everything(here)
        registry = CollectorRegistry()
        registry.register(Collector(here.app.metrics))
        found = {sample.name: sample for family in registry.collect() for sample in family.samples}
        assert found.keys() >= SERIES
        labels = {"queue": "q", "outcome": "completed"}
        assert registry.get_sample_value("toril_kept", labels) == 3
        labels |= {"by": "plugin acme"}
        assert registry.get_sample_value("toril_removed_total", labels) == 1


async def test_through_opentelemetry(redis_url: str, tmp_path: Path) -> None:
    reader = InMemoryMetricReader()
    provider = MeterProvider([reader])
    config: Any = {
        "archive": {"sqlite": str(tmp_path / "a.db")},
        "otel_metrics": {"period": "100ms"},
    }
    async with place(redis_url, plugins=[Acme(), OtelMetrics(provider)], config=config) as here:
        await everything(here)

        def told() -> bool:
            data = reader.get_metrics_data()
            names = {
                metric.name.removesuffix("_total")
                for resource in (data.resource_metrics if data else ())
                for scope in resource.scope_metrics
                for metric in scope.metrics
            }
            return names >= {name.removesuffix("_total") for name in SERIES}

        await until("all of them are told", told)
    provider.shutdown()


class TestARequiredPluginIsMissing:
    async def test_a_worker_says_so_once_when_it_starts(
        self, redis_url: str, caplog: pytest.LogCaptureFixture
    ) -> None:
        async with place(redis_url) as here:
            await here.queue.set(Requires("acme"))
            caplog.set_level(logging.WARNING, "toril.cleanup")
            await here.run()
            await here.run()
            with pytest.raises(GiveWay):
                await here.app.run_services("q")
            (record,) = [each for each in caplog.records if each.name == "toril.cleanup"]
            assert record.getMessage() == (
                "queue q requires the plugin acme, which this process does not run: "
                "it removes no finished job of the queue"
            )
            name = "toril_sweeps_without_required_plugins_total"
            assert counted(here.app, name, "queue") == {"q": 1}

    async def test_one_that_runs_it_says_nothing(
        self, redis_url: str, caplog: pytest.LogCaptureFixture
    ) -> None:
        async with place(redis_url, plugins=[Acme()]) as here:
            await here.queue.set(Requires("acme"))
            await here.run()
            await here.sweep()
        assert "requires" not in caplog.text
