"""Toril's own plugins keep to the contracts that a third party's are tested with."""

from __future__ import annotations

from collections.abc import Generator, Iterable, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn

import pytest

from toril.plugins import ManualClock
from toril.testing import AppOptions, PluginContract
from toril_plugins.archive.jsonl import JsonlStore
from toril_plugins.archive.record import ArchivedJob
from toril_plugins.archive.sqlite import SqliteStore
from toril_plugins.archive.store import ArchiveStore, Wanted
from toril_plugins.testing import ArchiveContract, Copy


class TestPersistence(PluginContract):
    plugin = "persistence"


class TestCleanup(PluginContract):
    plugin = "cleanup"


class TestPrometheus(PluginContract):
    plugin = "prometheus"
    config = {"prometheus": {"port": 0}}  # noqa: RUF012 - as authors write it


class TestOtelMetrics(PluginContract):
    plugin = "otel_metrics"
    config = {"otel_metrics": {}}  # noqa: RUF012 - as authors write it


class TestJobCounts(PluginContract):
    plugin = "job_counts"
    config = {"job_counts": {"queues": ["mail"]}}  # noqa: RUF012 - as authors write it


class TestOtelTraces(PluginContract):
    plugin = "otel_traces"
    config = {"otel_traces": {}}  # noqa: RUF012 - as authors write it


class OwnArchive(ArchiveContract):
    """The archive, with one kind of store."""

    plugin = "archive"
    kind: type[Any]

    def options(self) -> dict[str, str]:
        """Which place is configured."""
        raise NotImplementedError

    def store(self) -> ArchiveStore:
        """The store, opened once more."""
        raise NotImplementedError

    @pytest.fixture(autouse=True)
    def place(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.path, self.patch = tmp_path, monkeypatch

    @pytest.fixture
    def toril_options(self, place: None) -> AppOptions:
        self.config = {"archive": self.options()}
        return {"plugins": ["archive", "persistence", "cleanup"], "config": self.config}

    def copies(self) -> Iterable[Copy]:
        store = self.store()
        found: list[ArchivedJob] = []
        page = store.find(Wanted())
        found += page.jobs
        while page.after is not None:
            page = store.find(Wanted(), page.after)
            found += page.jobs
        store.close()
        return [copy_of(archived) for archived in found]

    @contextmanager
    def broken(self) -> Generator[None]:
        def refuse(_store: object, jobs: Sequence[ArchivedJob]) -> NoReturn:
            raise OSError(f"no room for {len(jobs)} jobs, on purpose")

        with self.patch.context() as patch:
            patch.setattr(self.kind, "add", refuse)
            yield


def copy_of(archived: ArchivedJob) -> Copy:
    job = archived.job
    ended = job.result if archived.outcome == "completed" else job.reason
    return Copy(archived.queue, archived.id, archived.finished_on, job.data, ended)


class TestSqliteArchive(OwnArchive):
    kind = SqliteStore

    def options(self) -> dict[str, str]:
        return {"sqlite": str(self.path / "jobs.db")}

    def store(self) -> ArchiveStore:
        return SqliteStore(self.path / "jobs.db")


class TestJsonlArchive(OwnArchive):
    kind = JsonlStore

    def options(self) -> dict[str, str]:
        return {"jsonl": str(self.path / "jobs")}

    def store(self) -> ArchiveStore:
        return JsonlStore(
            self.path / "jobs", rotate_bytes=2**20, rotate_age=86_400_000, clock=ManualClock()
        )
