"""A process dies while it writes to an archive, after every so many bytes: the next one finds all
that was archived before, and archives what was under way, once.

The system kills it: no file may grow beyond a limit, and who tries to is ended within the write.
"""

from __future__ import annotations

import os
import resource
import shutil
import signal
import sqlite3
import warnings
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Final

import pytest

from toril.plugins import ManualClock
from toril_plugins.archive import ArchivedJob, ArchiveStore, Wanted
from toril_plugins.archive.jsonl import JsonlStore
from toril_plugins.archive.sqlite import SqliteStore

NOW: Final = 1_790_000_000_000
Open = Callable[[Path], ArchiveStore]


def jobs(first: int, count: int) -> list[ArchivedJob]:
    """Jobs of about half a kilobyte."""
    return [
        ArchivedJob(
            queue="q", id=f"j{number}", name="do", outcome="completed", finished_on=NOW + number,
            archived_on=NOW, rule="queue: 7d", fields={b"data": b'"%s"' % (b"x" * 300)},
            logs=[], children={},
        )
        for number in range(first, first + count)
    ]  # fmt: skip


BEFORE, UNDER_WAY = jobs(0, 300), jobs(300, 3)


def lines(folder: Path) -> ArchiveStore:
    clock = ManualClock(NOW)
    return JsonlStore(folder, rotate_bytes=2**20, rotate_age=86_400_000, clock=clock)


def database(folder: Path) -> ArchiveStore:
    return SqliteStore(folder / "jobs.db")


def killed_at(limit: int, open_store: Open, folder: Path) -> bool:
    """Archive in a process whose files may not grow beyond the limit; whether that killed it."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # other threads: none is used there
        child = os.fork()
    if child == 0:
        signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
        try:
            open_store(folder).add(UNDER_WAY)
        finally:
            os._exit(0)
    _, status = os.waitpid(child, 0)
    if os.WIFSIGNALED(status):
        assert os.WTERMSIG(status) == signal.SIGXFSZ
        return True
    assert os.WEXITSTATUS(status) == 0
    return False


def limits_of_lines(folder: Path) -> Iterator[int]:
    """Every few bytes of what is appended; the index, which is smaller, is not cut off."""
    (path,) = (folder / "lines").glob("*.jsonl")
    size, index = path.stat().st_size, (folder / "lines" / "index.sqlite").stat().st_size
    assert index < size
    yield from range(size, size + 4000, 61)


def limits_of_database(folder: Path) -> Iterator[int]:
    """Every so many bytes of the write-ahead log, from its beginning on."""
    yield from range(0, 40_000, 997)


@pytest.mark.parametrize(
    ("name", "open_store", "limits"),
    [("lines", lines, limits_of_lines), ("database", database, limits_of_database)],
    ids=["lines", "database"],
)
def test_a_process_dies_within_a_write(
    tmp_path: Path, name: str, open_store: Open, limits: Callable[[Path], Iterator[int]]
) -> None:
    beginning, folder = tmp_path / "beginning", tmp_path / name
    (beginning / name).mkdir(parents=True)
    store = open_store(beginning / name)
    store.add(BEFORE)
    store.close()
    killed: list[bool] = []
    torn = 0
    for limit in limits(beginning):
        shutil.copytree(beginning / name, folder)
        with closing(sqlite3.connect(folder / "jobs.db")) as reader:  # with it the log stays
            if name == "database":
                reader.execute("select count(*) from job").fetchone()
            killed.append(killed_at(limit, open_store, folder))
            torn += is_torn(folder)
        store = open_store(folder)
        there = {job.key for job in store.find(Wanted(), limit=1000).jobs}
        assert there >= {job.key for job in BEFORE}
        assert store.add(UNDER_WAY) == 303 - len(there)
        assert store.add(UNDER_WAY) == 0
        assert len(store.find(Wanted(), limit=1000).jobs) == 303
        assert not is_torn(folder)
        store.close()
        shutil.rmtree(folder)
    assert killed == sorted(killed, reverse=True), "once it fits it always fits"
    assert killed.count(True) > 20
    assert not killed[-1]
    assert (torn > 20) == (name == "lines")


def is_torn(folder: Path) -> bool:
    """Whether a file ends within a line."""
    return any(not path.read_bytes().endswith(b"\n") for path in folder.glob("*.jsonl"))
