"""Archived jobs in an SQLite database.

One table `job` with a row per record; `record` holds the whole of it as JSON (see
`toril_plugins.archive.record`), the other columns are there to search by. `PRAGMA user_version` is
the version of the table.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from toril.plugins import ConfigurationError
from toril_plugins.archive.record import ArchivedJob
from toril_plugins.archive.store import Page, Wanted

VERSION: Final = 1

_TABLE: Final = """
create table job (
    seq integer primary key autoincrement,
    queue text not null,
    id text not null,
    name text not null,
    outcome text not null,
    finished_on integer not null,
    archived_on integer not null,
    record text not null,
    unique (queue, id, finished_on)
)
"""
_INDEX: Final = "create index job_by_finish on job (queue, finished_on)"


def connect(path: Path, *, synchronous: str) -> sqlite3.Connection:
    """A database in write-ahead mode whose deleted rows are overwritten; transactions are ours."""
    database = sqlite3.connect(path, timeout=5, isolation_level=None, check_same_thread=False)
    try:
        database.execute("pragma journal_mode = wal")
        database.execute(f"pragma synchronous = {synchronous}")
        database.execute("pragma secure_delete = on")
    except BaseException:  # only now it is known whether the file is a database
        database.close()
        raise
    return database


@contextmanager
def transaction(database: sqlite3.Connection) -> Generator[None]:
    """All that is written within, or nothing."""
    database.execute("begin immediate")
    try:
        yield
        database.execute("commit")
    finally:
        if database.in_transaction:
            database.execute("rollback")


def conditions(wanted: Wanted) -> tuple[str, list[Any]]:
    """What is wanted as an SQL condition with its values."""
    asked: list[tuple[str, Any]] = [
        ("queue = ?", wanted.queue),
        ("id = ?", wanted.id),
        ("outcome = ?", wanted.outcome),
        ("name = ?", wanted.name),
        ("finished_on >= ?", wanted.since),
        ("finished_on < ?", wanted.until),
    ]
    said = [(text, value) for text, value in asked if value is not None]
    return " and ".join(text for text, _ in said) or "1", [value for _, value in said]


class SqliteStore:
    """See `ArchiveStore`. Several processes may use one file, all on one machine.

    Raises `ConfigurationError` if the file is not such a database, or of a newer version.
    """

    def __init__(self, path: Path) -> None:
        try:
            self._database = connect(path, synchronous="full")
        except sqlite3.Error as error:
            raise ConfigurationError(f"the archive {path} cannot be opened: {error}") from error
        try:
            self._prepare(path)
        except BaseException:
            self._database.close()
            raise

    def _prepare(self, path: Path) -> None:
        try:
            # Two processes may create the file at once.
            self._database.execute("begin immediate")
            (version,) = self._database.execute("pragma user_version").fetchone()
            if version == 0:
                self._database.execute(_TABLE)
                self._database.execute(_INDEX)
                self._database.execute(f"pragma user_version = {VERSION}")
            self._database.execute("commit")
        except sqlite3.Error as error:
            raise ConfigurationError(f"the archive {path} cannot be used: {error}") from error
        if version > VERSION:
            raise ConfigurationError(
                f"the archive {path} is of version {version}; this Toril knows {VERSION}"
            )

    def add(self, jobs: Sequence[ArchivedJob]) -> int:
        """Keep these jobs, in one transaction; return how many were not there before."""
        rows = [
            (
                *(job.queue, job.id, job.name, job.outcome),
                *(job.finished_on, job.archived_on, job.encode().decode()),
            )
            for job in jobs
        ]
        database = self._database
        before = database.total_changes
        with transaction(database):
            database.executemany(
                "insert into job (queue, id, name, outcome, finished_on, archived_on, record)"
                " values (?, ?, ?, ?, ?, ?, ?) on conflict do nothing",
                rows,
            )
        return database.total_changes - before

    def find(self, wanted: Wanted, after: str | None = None, limit: int = 100) -> Page:
        """Some of those that are wanted, last archived first."""
        where, values = conditions(wanted)
        if after is not None:
            where, values = f"({where}) and seq < ?", [*values, int(after)]
        rows = self._database.execute(
            # No value stands in the text: `where` is made above.
            f"select seq, record from job where {where} order by seq desc limit ?",  # noqa: S608
            [*values, limit],
        ).fetchall()
        jobs = [ArchivedJob.decode(record.encode()) for _, record in rows]
        return Page(jobs, str(rows[-1][0]) if len(rows) == limit else None)

    def get(self, queue: str, id: str, finished_on: int | None = None) -> ArchivedJob | None:
        """One job: as it finished then, or as it finished last."""
        row = self._database.execute(
            "select record from job where queue = ? and id = ? and finished_on = ifnull(?,"
            " finished_on) order by finished_on desc limit 1",
            (queue, id, finished_on),
        ).fetchone()
        return None if row is None else ArchivedJob.decode(row[0].encode())

    def erase(self, queue: str, id: str) -> int:
        """Forget all records of a job; not even the free pages of the file hold them then."""
        with transaction(self._database):
            gone = self._database.execute(
                "delete from job where queue = ? and id = ?", (queue, id)
            ).rowcount
        # What the write-ahead log holds of it goes too, once nobody reads there any more.
        (busy, *_) = self._database.execute("pragma wal_checkpoint(truncate)").fetchone()
        if busy:
            raise TimeoutError("somebody is reading the archive; erase again")
        return gone

    def close(self) -> None:
        """Close the file."""
        self._database.close()
