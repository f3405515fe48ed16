"""Our own archive stores keep to the contract that others inherit."""

from __future__ import annotations

from pathlib import Path

import pytest

from toril.plugins import ManualClock
from toril_plugins.archive import ArchiveStore
from toril_plugins.archive.jsonl import JsonlStore
from toril_plugins.archive.sqlite import SqliteStore
from toril_plugins.testing import ArchiveStoreContract


class _InAFolder(ArchiveStoreContract):
    folder: Path

    @pytest.fixture(autouse=True)
    def _folder(self, tmp_path: Path) -> None:
        self.folder = tmp_path


class TestSqlite(_InAFolder):
    def open_store(self) -> ArchiveStore:
        return SqliteStore(self.folder / "archive.db")


class TestJsonl(_InAFolder):
    def open_store(self) -> ArchiveStore:
        return JsonlStore(
            self.folder, rotate_bytes=1_000, rotate_age=86_400_000, clock=ManualClock()
        )
