"""The exporters of counters and gauges, with the real libraries on the other side."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import pytest
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.parser import text_string_to_metric_families
from tests.support.place import finish_jobs

from toril import App, NewJob, hookimpl
from toril.plugins import JobSaved, ManualClock, PluginContext
from toril_plugins import Due, Flows, Hold, Holds, Retention
from toril_plugins.otel_metrics import OtelMetrics
from toril_plugins.prometheus import Collector, Prometheus


class Counting:
    """Counts saved jobs, by name, and gauges how many there were at once."""

    toril_name = "counting"

    @hookimpl
    def toril_start(self, context: PluginContext) -> None:
        self.context = context

    @hookimpl
    def toril_jobs_saved(self, events: Sequence[JobSaved]) -> None:
        for event in events:
            self.context.count("saved_total", job=event.job.name)
        self.context.gauge("saved_at_once", len(events))


def scraped(text: str) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    """What the text says, as Prometheus' own parser reads it."""
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def scrape(url: str) -> str:
    with urlopen(url) as response:
        text: str = response.read().decode()
    return text


def status(app: App, name: str) -> tuple[str, str | None]:
    info = app.runtime.plugins.info(name)
    assert info is not None
    return info.status, info.error


class TestPrometheus:
    async def test_a_server_scrapes_it(self, redis_url: str) -> None:
        exporter = Prometheus()
        config = {"prometheus": {"port": 0}}
        async with App(redis_url, plugins=[Counting(), exporter], config=config) as app:
            await app.queue("mail").add('a "quoted" \\ name')
            await app.queue("mail").add("b")
            url = f"http://127.0.0.1:{exporter.port}/metrics"
            text = await asyncio.to_thread(scrape, url)
        found = scraped(text)
        assert found["saved_total", (("job", 'a "quoted" \\ name'),)] == 1
        assert found["saved_total", (("job", "b"),)] == 1
        assert found["saved_at_once", ()] == 1
        calls = (("hook", "toril_jobs_saved"), ("plugin", "counting"))
        assert found["toril_hook_calls_total", calls] == 2
        assert "# TYPE saved_total counter" in text
        assert "# TYPE saved_at_once gauge" in text

    async def test_it_stops_with_its_app_and_starts_again(self, redis_url: str) -> None:
        exporter = Prometheus()
        app = App(redis_url, plugins=[exporter], config={"prometheus": {"port": 0}})
        for _ in range(2):
            async with app:
                url = f"http://127.0.0.1:{exporter.port}/metrics"
                await asyncio.to_thread(scrape, url)
            with pytest.raises(OSError, match="refused"):
                await asyncio.to_thread(scrape, url)

    async def test_it_is_off_until_configured(self, redis_url: str) -> None:
        async with App(redis_url, plugins=["prometheus", "otel_metrics"]) as app:
            assert status(app, "prometheus")[0] == "off"
            assert status(app, "otel_metrics")[0] == "off"

    @pytest.mark.parametrize(
        ("name", "module", "table", "extra"),
        [
            ("prometheus", "prometheus_client", {"port": 0}, "toril[prometheus]"),
            ("otel_metrics", "opentelemetry.metrics", {}, "toril[otel]"),
            ("otel_traces", "opentelemetry.trace", {}, "toril[otel]"),
        ],
    )
    async def test_without_its_extra_it_names_it_and_harms_nobody(
        self,
        name: str,
        module: str,
        table: dict[str, Any],
        extra: str,
        redis_url: str,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        monkeypatch.setitem(sys.modules, module, None)
        async with App(redis_url, plugins=[name], config={name: table}) as app:
            found, error = status(app, name)
            assert found == "broken"
            assert error is not None
            assert extra in error
            assert (await app.queue("mail").add("x")).id

    async def test_a_taken_port_harms_nobody(self, redis_url: str) -> None:
        first = Prometheus()
        async with App(redis_url, plugins=[first], config={"prometheus": {"port": 0}}):
            config = {"prometheus": {"port": first.port}}
            async with App(redis_url, plugins=["prometheus"], config=config) as app:
                assert status(app, "prometheus")[0] == "broken"
                assert (await app.queue("mail").add("x")).id

    async def test_as_a_collector_in_ones_own_registry(self, redis_url: str) -> None:
        registry = CollectorRegistry()
        async with App(redis_url, plugins=[Counting()]) as app:
            registry.register(Collector(app.metrics))
            await app.queue("mail").add("b")
            found = scraped(generate_latest(registry).decode())
            assert found["saved_total", (("job", "b"),)] == 1


class Collected:
    """What a reader of OpenTelemetry has collected."""

    def __init__(self, reader: InMemoryMetricReader) -> None:
        data = reader.get_metrics_data()
        self.metrics = {
            metric.name: metric
            for resource in (data.resource_metrics if data else ())
            for scope in resource.scope_metrics
            for metric in scope.metrics
        }

    def value(self, name: str, **attributes: str) -> float | None:
        if name not in self.metrics:
            return None
        points: Sequence[Any] = self.metrics[name].data.data_points
        found = [float(p.value) for p in points if dict(p.attributes) == attributes]
        return found[0] if found else None


class Refusing:
    """Cannot review a job called `bad`."""

    toril_name = "refusing"

    @hookimpl
    def toril_review_removal(self, due: Sequence[Due], flows: Flows) -> None:
        if any(each.job.name == "bad" for each in due):
            raise ValueError("cannot")


async def test_every_counter_of_retention_is_exported(redis_url: str, tmp_path: Path) -> None:
    """Kept, removed by rule, archived, parked, sweep lag, longest script and errors."""
    exporter, reader, clock = Prometheus(), InMemoryMetricReader(), ManualClock()
    provider = MeterProvider([reader])
    config = {
        "prometheus": {"port": 0},
        "otel_metrics": {"period": "10ms"},
        "archive": {"sqlite": str(tmp_path / "done.db")},
    }
    plugins = [Refusing(), exporter, OtelMetrics(provider), "*"]
    async with App(redis_url, plugins=plugins, config=config, clock=clock) as app:
        queue = await finish_jobs(app, *[NewJob(name) for name in ("go", "go", "held")])
        await queue.set(Holds(Hold(name="held")))
        await queue.set(Retention(completed="1h"))
        clock.advance("1h 1s")
        await app.run_services("mail")
        await finish_jobs(app, NewJob("stay"), NewJob("bad", {}, Retention(failed="1s")))
        clock.advance("1s")
        await app.run_services("mail")
        at = {"queue": "mail"}
        completed, failed = {**at, "outcome": "completed"}, {**at, "outcome": "failed"}
        errors = "toril_retention_errors_total"
        of_errors = {**at, "plugin": "refusing", "hook": "toril_review_removal"}
        expected: list[tuple[str, dict[str, str], float | None]] = [
            ("toril_kept", completed, 2),
            ("toril_kept", failed, 1),
            ("toril_held", completed, 1),
            ("toril_removed_total", {**completed, "by": "queue"}, 2),
            ("toril_archived_total", {"store": "sqlite"}, 2),
            ("toril_parked_total", {**completed, "why": "held"}, 1),
            (errors, of_errors, 1),
            ("toril_sweep_lag_seconds", at, 0),
            ("toril_longest_script_ms", at, None),
        ]
        async with asyncio.timeout(5):  # until an instrument is made for the last of them
            while Collected(reader).value(errors, **of_errors) is None:
                await asyncio.sleep(0.01)
        url = f"http://127.0.0.1:{exporter.port}/metrics"
        found = scraped(await asyncio.to_thread(scrape, url))
        collected = Collected(reader)
        for name, labels, value in expected:
            shown = found[name, tuple(sorted(labels.items()))]
            assert (name, shown) == (name, collected.value(name, **labels))
            assert shown == value or (value is None and shown > 0), name
    provider.shutdown()


class TestOpenTelemetry:
    async def test_a_reader_collects_it(self, redis_url: str) -> None:
        reader = InMemoryMetricReader()
        provider = MeterProvider([reader])
        plugins = [Counting(), OtelMetrics(provider)]
        config = {"otel_metrics": {"period": "10ms"}}
        app = App(redis_url, plugins=plugins, config=config)
        async with app:
            await app.queue("mail").add("b")
            async with asyncio.timeout(5):
                while Collected(reader).value("saved_total", job="b") is None:
                    await asyncio.sleep(0.01)
            await app.queue("mail").add("b")
            await app.queue("mail").add("c")
            found = Collected(reader)
            assert found.value("saved_total", job="b") == 2
            assert found.value("saved_total", job="c") == 1
            assert found.value("saved_at_once") == 1
            kinds = {name: type(each.data).__name__ for name, each in found.metrics.items()}
            assert (kinds["saved_total"], kinds["saved_at_once"]) == ("Sum", "Gauge")
            data: Any = found.metrics["saved_total"].data
            assert data.is_monotonic
        assert Collected(reader).value("saved_total", job="b") is None
        async with app:  # no instrument is made twice, which the SDK would warn of
            assert Collected(reader).value("saved_total", job="b") == 2
        provider.shutdown()
