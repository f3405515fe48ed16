"""Counts of jobs as gauges, and the door of core that plugins count through."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from pathlib import Path

import pytest
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader, NumberDataPoint
from prometheus_client import CollectorRegistry, generate_latest
from tests.conftest import ServerFactory

from toril import App, hookimpl
from toril.plugins import STATES, PluginContext, State
from toril_plugins.job_counts import NAME, JobCounts, JobCountsConfig
from toril_plugins.otel_metrics import OtelMetrics
from toril_plugins.prometheus import Collector


class Watcher:
    """A plugin that is not ours."""

    toril_name = "watcher"
    context: PluginContext

    @hookimpl
    def toril_start(self, context: PluginContext) -> None:
        self.context = context

    async def waiting(self, queue: str) -> Mapping[State, int]:
        return await self.context.counts(queue)


def configured(folder: Path, text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    file = folder / "toril.toml"
    file.write_text(text)
    monkeypatch.setenv("TORIL_CONFIG", str(file))


async def counted(app: App, **labels: str) -> float | None:
    for sample in app.metrics():
        if sample.name == NAME and sample.labels == labels:
            return sample.value
    return None


async def test_any_plugin_can_count_jobs(redis_url: str) -> None:
    watcher = Watcher()
    async with App(redis_url, plugins=[watcher]) as app:
        await app.queue("mail").add("x")
        await app.queue("mail").add("x", delay="1h")
        found = await watcher.waiting("mail")
    assert (found["waiting"], found["delayed"], set(found)) == (1, 1, set(STATES))


async def test_gauges_follow_the_queues(
    redis_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = '[job_counts]\nqueues = ["mail", "other"]\nperiod = "10ms"\n'
    configured(tmp_path, text, monkeypatch)
    async with App(redis_url, plugins=[JobCounts()]) as app:
        for number in (1, 2):
            await app.queue("mail").add("x")
            async with asyncio.timeout(5):
                while await counted(app, queue="mail", state="waiting") != number:
                    await asyncio.sleep(0.005)
        assert await counted(app, queue="other", state="failed") == 0
        registry = CollectorRegistry()
        registry.register(Collector(app.metrics))
        line = b'bullmq_job_count{queue="mail",state="waiting"} 2.0'
        assert line in generate_latest(registry)


async def test_opentelemetry_gets_them_too(
    redis_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = '[job_counts]\nqueues = ["mail"]\nperiod = "10ms"\n[otel_metrics]\nperiod = "10ms"\n'
    configured(tmp_path, text, monkeypatch)
    reader = InMemoryMetricReader()
    provider = MeterProvider([reader])

    def read() -> list[float]:
        data = reader.get_metrics_data()
        return [
            point.value
            for resource in (data.resource_metrics if data else ())
            for scope in resource.scope_metrics
            for metric in scope.metrics
            if metric.name == NAME
            for point in metric.data.data_points
            if isinstance(point, NumberDataPoint) and (point.attributes or {})["state"] == "waiting"
        ]

    async with App(redis_url, plugins=[JobCounts(), OtelMetrics(provider)]) as app:
        await app.queue("mail").add("x")
        async with asyncio.timeout(5):
            while read() != [1]:
                await asyncio.sleep(0.01)
    provider.shutdown()


async def test_it_goes_on_when_the_server_is_back(
    fresh_server: ServerFactory,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    configured(tmp_path, '[job_counts]\nqueues = ["a"]\nperiod = "10ms"\n', monkeypatch)
    server = fresh_server()
    async with App(server.url, plugins=[JobCounts()]) as app:
        with server.client() as client:
            client.set("bull:a:wait", "garbled")
            async with asyncio.timeout(5):
                while "could not be counted" not in caplog.text:
                    await asyncio.sleep(0.005)
            client.delete("bull:a:wait")
        async with asyncio.timeout(5):
            while await counted(app, queue="a", state="waiting") is None:
                await asyncio.sleep(0.005)


def test_a_period_that_never_pauses() -> None:
    with pytest.raises(ValueError, match="10ms"):
        JobCountsConfig(("a",), "1ms")
