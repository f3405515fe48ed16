"""What the tests of hooks share: a folder of installed distributions, and loading from it."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from tests.support.distributions import Site

from toril.clock import ManualClock
from toril.hooks import discovery
from toril.hooks.configuration import Configuration
from toril.hooks.loader import load_plugins
from toril.hooks.plugin_set import PluginSet
from toril.job_events import JobEvent
from toril.metrics import Metrics, Sample
from toril.protocol.reading import FinishedCursor, FinishedPage
from toril.setting import Said, Setting
from toril.snapshots import JobParts, JobSnapshot
from toril.types import Json, Outcome, State

Load = Callable[..., PluginSet]


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    """A folder on the path. Of what is installed elsewhere the tests see nothing."""
    folder = tmp_path / "site"
    made = Site(folder)
    monkeypatch.syspath_prepend(str(folder))
    modules = set(sys.modules)
    scan = discovery._scan
    scan.cache_clear()

    def only_here() -> tuple[discovery.Offer, ...]:
        return tuple(offer for offer in scan() if offer.folder.startswith(str(folder)))

    monkeypatch.setattr(discovery, "_scan", only_here)
    yield made
    scan.cache_clear()
    for name in set(sys.modules) - modules:
        if str(folder) in (getattr(sys.modules[name], "__file__", None) or ""):
            del sys.modules[name]


@pytest.fixture
def load(site: Site) -> Load:
    """Load plugins as an App does, with an environment of its own."""

    def make(
        plugins: Sequence[object] | None = None,
        block: Sequence[str] = (),
        config: Mapping[str, Any] | None = None,
        **environ: str,
    ) -> PluginSet:
        configuration = Configuration.read(config, environ)
        return load_plugins(plugins, block, configuration, environ=environ)

    return make


class StubHost:
    """Stands in for an App: notes what plugins ask of it."""

    def __init__(self) -> None:
        self._clock = ManualClock(1_000_000)
        self.asked: list[tuple[object, ...]] = []
        self.metrics = Metrics()

    @property
    def clock(self) -> ManualClock:
        return self._clock

    def samples(self) -> tuple[Sample, ...]:
        return self.metrics.samples()

    async def run_script(self, queue: str, plugin: str, script: str, args: Json) -> Json:
        self.asked.append(("script", queue, plugin, script, args))
        return "ran"

    async def read_counts(self, queue: str) -> Mapping[State, int]:
        self.asked.append(("counts", queue))
        return {"waiting": 1}

    async def read_jobs(self, queue: str, ids: Sequence[str]) -> Sequence[JobSnapshot | None]:
        self.asked.append(("jobs", queue, tuple(ids)))
        return [None for _ in ids]

    async def read_parts(self, queue: str, ids: Sequence[str]) -> Sequence[JobParts]:
        return [JobParts() for _ in ids]

    async def read_finished(
        self,
        queue: str,
        outcome: Outcome,
        after: FinishedCursor | None,
        limit: int,
        before: int | None,
    ) -> FinishedPage:
        self.asked.append(("finished", queue, outcome, after, limit, before))
        return FinishedPage((), None)

    async def read_live(self, queue: str, kind: type[Setting]) -> Sequence[Said[Any]]:
        self.asked.append(("live", queue, kind))
        return ()

    async def run_services(self, queue: str) -> bool:
        self.asked.append(("services", queue))
        return True

    async def publish(self, events: Sequence[JobEvent]) -> None:
        self.asked.append(("publish", *events))


@pytest.fixture
def host() -> StubHost:
    return StubHost()
