"""Prometheus: the counters and gauges of an App, for a Prometheus server to collect.

Either the plugin answers on a port of its own, which it is given in the configuration:

    [prometheus]
    port = 9464

or a program that has an endpoint already registers a `Collector` there:

    REGISTRY.register(Collector(app.metrics))

Needs the extra `prometheus`.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING, Any

from toril import ConfigurationError, hookimpl
from toril.plugins import PluginContext, Registry, Sample

if TYPE_CHECKING:
    from prometheus_client import Metric

log = logging.getLogger("toril.prometheus")

EXTRA = "needs an extra: pip install 'toril[prometheus]'"


@dataclass(frozen=True, slots=True)
class PrometheusConfig:
    """Options of the plugin `prometheus`.

    Args:
        port: on which it answers; 0: any that is free, which is logged.
        host: the address to listen on; others than this machine's own see nothing by default.
    """

    port: int
    host: str = "127.0.0.1"


class Collector:
    """What a registry of `prometheus_client` asks.

    Args:
        read: returns the samples: `app.metrics`.
    """

    def __init__(self, read: Callable[[], Sequence[Sample]]) -> None:
        self._read = read

    def describe(self) -> Iterable[Metric]:
        """Nothing in advance: which there are shows as they are counted."""
        return ()

    def collect(self) -> Iterator[Metric]:
        """All counters and gauges as they are now."""
        from prometheus_client import Metric

        found: dict[str, Metric] = {}
        for sample in self._read():
            # prometheus_client names a family of counters without the end that its samples have.
            family = sample.name.removesuffix("_total")
            if family not in found:
                found[family] = Metric(family, f"{sample.name} of Toril", sample.kind)
            found[family].add_sample(sample.name, dict(sample.labels), sample.value)
        yield from found.values()


class Prometheus:
    """Answers a Prometheus server. Off until it has a table in the configuration."""

    toril_name = "prometheus"
    toril_off_until_configured = True

    port: int | None = None
    """Where it answers, once it has started."""

    @hookimpl
    def toril_register(self, registry: Registry) -> None:
        registry.config(PrometheusConfig)
        try:
            import_module("prometheus_client")
        except ImportError as error:
            raise ConfigurationError(f"plugin 'prometheus' {EXTRA}") from error

    @hookimpl
    def toril_start(self, context: PluginContext) -> None:
        from prometheus_client import CollectorRegistry, start_http_server

        config = context.config(PrometheusConfig)
        registry = CollectorRegistry(auto_describe=False)
        registry.register(Collector(context.metrics))
        started: Any = start_http_server(config.port, addr=config.host, registry=registry)
        self._server, self._thread = started
        self.port = self._server.server_port
        log.info("metrics on http://%s:%d/metrics", config.host, self.port)

    @hookimpl
    async def toril_stop(self, context: PluginContext) -> None:
        del context
        if self.port is not None:
            self.port = None
            await asyncio.to_thread(self._close)

    def _close(self) -> None:
        self._server.shutdown()  # returns when the server has looked, which it does twice a second
        self._server.server_close()
        self._thread.join()
