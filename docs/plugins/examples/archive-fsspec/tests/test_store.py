"""The store, on a local file system and on one in memory."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import fsspec
import pytest
from toril_archive_fsspec import FsspecStore, open_store

from toril import ConfigurationError
from toril.plugins import ManualClock
from toril_plugins.archive import Wanted
from toril_plugins.testing import ARCHIVED, ArchiveStoreContract


class TestStore(ArchiveStoreContract):
    @pytest.fixture(autouse=True, params=["memory", "file"])
    def url(self, request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[None]:
        self.place = "memory://jobs" if request.param == "memory" else f"file://{tmp_path}/jobs"
        yield
        memory = fsspec.filesystem("memory")
        memory.store.clear()

    def open_store(self) -> FsspecStore:
        return FsspecStore(self.place)


def test_a_torn_file_is_no_object(tmp_path: Path) -> None:
    store = FsspecStore(f"file://{tmp_path}")
    store.add([ARCHIVED])
    (path,) = tmp_path.rglob("*.json")
    path.with_name(f"{path.name}.77").write_bytes(path.read_bytes()[:30])
    path.unlink()
    assert store.find(Wanted()).jobs == []
    assert store.add([ARCHIVED]) == 1


def test_wrong_options_are_said() -> None:
    for options in ({}, {"url": "memory://x", "storage": {}}):
        with pytest.raises(ConfigurationError, match="are url"):
            open_store(options, ManualClock())
