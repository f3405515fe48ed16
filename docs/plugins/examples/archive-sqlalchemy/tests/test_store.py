"""The store. `ARCHIVE_TEST_URL` names the database; without it, SQLite in a folder of its own."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from toril_archive_sqlalchemy import SqlalchemyStore, open_store

from toril import ConfigurationError
from toril.plugins import ManualClock
from toril_plugins.archive import Wanted
from toril_plugins.testing import ArchiveStoreContract


class TestStore(ArchiveStoreContract):
    @pytest.fixture(autouse=True)
    def url(self, tmp_path: Path) -> None:
        default = f"sqlite:///{tmp_path / 'archive.db'}"
        self.place = os.environ.get("ARCHIVE_TEST_URL", default)
        store = self.open_store()  # a database of many tests is not empty
        for job in store.find(Wanted()).jobs:
            store.erase(job.queue, job.id)
        store.close()

    def open_store(self) -> SqlalchemyStore:
        return SqlalchemyStore(self.place, "archive_test")


def test_wrong_options_are_said() -> None:
    for options in ({}, {"url": "sqlite://", "tabel": "x"}, {"url": "mysql://localhost"}):
        with pytest.raises((ConfigurationError, ModuleNotFoundError)):
            open_store(options, ManualClock())
