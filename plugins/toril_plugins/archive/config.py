"""What can be configured for the archive."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

from toril.plugins import Clock, ConfigurationError, milliseconds
from toril_plugins.archive.store import STORE_KIND, ArchiveStore, OpenStore

Find: TypeAlias = Callable[[str, str], Any]


@dataclass(frozen=True, slots=True)
class ArchiveConfig:
    """Options of the plugin `archive`. At least one place is named; all that are get every job.

    Args:
        sqlite: a database file; made if it is not there.
        jsonl: a folder for JSON Lines files; made if it is not there.
        store: a store that another plugin offers, by its name.
        options: what that store is opened with.
        rotate_bytes: a JSON Lines file of that size is followed by the next one.
        rotate_age: and so is one that was begun so long ago.
        stay: how long a job that was restored is kept before its rule counts again.
        erase: whether erasing a job erases its archived copies too.
    """

    sqlite: str | None = None
    jsonl: str | None = None
    store: str | None = None
    options: dict[str, Any] = field(default_factory=dict[str, Any])
    rotate_bytes: int = 64 * 2**20
    rotate_age: str = "1d"
    stay: str = "7d"
    erase: bool = True

    def __post_init__(self) -> None:
        if not (self.sqlite or self.jsonl or self.store):
            raise ValueError("say where jobs are archived: sqlite = FILE, jsonl = FOLDER or store")
        if self.rotate_bytes < 1:
            raise ValueError(f"rotate_bytes is a size in bytes, not {self.rotate_bytes}")
        for text in (self.rotate_age, self.stay):
            milliseconds(text)


def open_stores(config: ArchiveConfig, find: Find, clock: Clock) -> dict[str, ArchiveStore]:
    """The stores that are configured, opened, by name; `find` finds what plugins registered.

    Raises:
        ConfigurationError: one of them cannot be used. Jobs would be lost if this went unnoticed.
    """
    stores: dict[str, ArchiveStore] = {}
    try:
        if config.sqlite:
            from toril_plugins.archive.sqlite import SqliteStore

            stores["sqlite"] = SqliteStore(Path(config.sqlite))
        if config.jsonl:
            from toril_plugins.archive.jsonl import JsonlStore

            stores["jsonl"] = JsonlStore(
                Path(config.jsonl),
                rotate_bytes=config.rotate_bytes,
                rotate_age=milliseconds(config.rotate_age),
                clock=clock,
            )
        if config.store:
            open_store: OpenStore = find(STORE_KIND, config.store)
            stores[config.store] = open_store(config.options, clock)
    except Exception as error:
        for store in stores.values():
            store.close()
        if isinstance(error, ConfigurationError):
            raise
        raise ConfigurationError(f"the archive cannot be opened: {error}") from error
    return stores
