"""OpenTelemetry: the counters and gauges of an App as observable instruments.

    [otel_metrics]

in the configuration turns it on, with the meter provider that the program has set for the whole
process; a program can also give its own: `App(plugins=["*", OtelMetrics(provider)])`. Needs the
extra `otel`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING

from toril import ConfigurationError, hookimpl
from toril.plugins import MetricKind, PluginContext, Registry, milliseconds

if TYPE_CHECKING:
    from opentelemetry.metrics import CallbackOptions, Meter, MeterProvider, Observation

EXTRA = "needs an extra: pip install 'toril[otel]'"


@dataclass(frozen=True, slots=True)
class OtelMetricsConfig:
    """Options of the plugin `otel_metrics`.

    Args:
        period: how often it looks for counters that were not there before; an instrument is made
            for each.
    """

    period: str = "5s"

    def __post_init__(self) -> None:
        if milliseconds(self.period) < 10:
            raise ValueError(f"period {self.period!r} is below 10ms: looking would never pause")


class OtelMetrics:
    """Shows the App's counters and gauges to OpenTelemetry. Off until it is configured or made.

    Args:
        provider: where the instruments are made; None: the provider of the whole process.
    """

    toril_name = "otel_metrics"
    toril_off_until_configured = True

    def __init__(self, provider: MeterProvider | None = None) -> None:
        self._provider = provider
        self._context: PluginContext | None = None
        self._meter: Meter | None = None
        self._made: set[str] = set()
        if provider is not None:
            self.toril_off_until_configured = False

    @hookimpl
    def toril_register(self, registry: Registry) -> None:
        registry.config(OtelMetricsConfig)
        try:
            import_module("opentelemetry.metrics")
        except ImportError as error:
            raise ConfigurationError(f"plugin 'otel_metrics' {EXTRA}") from error

    @hookimpl
    def toril_start(self, context: PluginContext) -> None:
        from opentelemetry.metrics import get_meter_provider

        period = milliseconds(context.config(OtelMetricsConfig).period) / 1000
        self._context = context
        if self._meter is None:
            self._meter = (self._provider or get_meter_provider()).get_meter("toril")
        self._make_instruments(self._meter)
        context.spawn(self._look(self._meter, period))

    @hookimpl
    def toril_stop(self, context: PluginContext) -> None:
        del context
        self._context = None

    async def _look(self, meter: Meter, period: float) -> None:
        while True:
            await asyncio.sleep(period)
            self._make_instruments(meter)

    def _make_instruments(self, meter: Meter) -> None:
        """One for each name that has none yet; they stay, as no meter takes one back."""
        for sample in self._context.metrics() if self._context else ():
            if sample.name in self._made:
                continue
            self._made.add(sample.name)
            create = _creator(meter, sample.kind)
            create(sample.name, [self._observer(sample.name)])

    def _observer(self, name: str) -> Callable[[CallbackOptions], Iterable[Observation]]:
        from opentelemetry.metrics import Observation

        def observe(options: CallbackOptions) -> Iterable[Observation]:
            del options
            samples = self._context.metrics() if self._context else ()
            return [
                Observation(sample.value, dict(sample.labels))
                for sample in samples
                if sample.name == name
            ]

        return observe


def _creator(meter: Meter, kind: MetricKind) -> Callable[..., object]:
    if kind == "counter":
        return meter.create_observable_counter
    return meter.create_observable_gauge
