"""Where each record is in the files of a folder: an accelerator, made anew from the files."""

from __future__ import annotations

import sqlite3
from collections.abc import Container, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Self

from toril_plugins.archive.record import ArchivedJob
from toril_plugins.archive.sqlite import conditions, connect, transaction
from toril_plugins.archive.store import Wanted

VERSION: Final = 1

_TABLES: Final = (
    "create table file (name text primary key, stamp text not null, size integer not null)",
    """create table line (
        file text not null,
        start integer not null,
        queue text not null,
        id text not null,
        name text not null,
        outcome text not null,
        finished_on integer not null,
        primary key (file, start)
    ) without rowid""",
    "create index line_by_key on line (queue, id, finished_on)",
)


# Somebody may have copied files together.
_FIRST: Final = """not exists (
    select 1 from line as other
    where other.queue = line.queue and other.id = line.id
    and other.finished_on = line.finished_on
    and (other.file, other.start) < (line.file, line.start)
)"""


@dataclass(frozen=True, slots=True, order=True)
class Place:
    """Where a record begins: the file's name without its ending, and the offset in bytes."""

    file: str
    offset: int

    def __str__(self) -> str:
        return f"{self.file}:{self.offset}"

    @classmethod
    def parse(cls, text: str) -> Self:
        """The place that `str` wrote. Raises `ValueError` for anything else."""
        file, colon, offset = text.rpartition(":")
        if not colon or not file:
            raise ValueError(f"not a place in the archive: {text!r}")
        return cls(file, int(offset))


class Index:
    """Knows where each record is. One that is broken or of another version is made anew."""

    def __init__(self, path: Path) -> None:
        try:
            self._database = self._opened(path)
        except sqlite3.OperationalError:
            raise  # in use, or out of reach
        except sqlite3.DatabaseError:
            for ending in ("", "-wal", "-shm"):
                path.with_name(path.name + ending).unlink(missing_ok=True)
            self._database = self._opened(path)

    @staticmethod
    def _opened(path: Path) -> sqlite3.Connection:
        database = connect(path, synchronous="normal")
        try:
            with transaction(database):
                (version,) = database.execute("pragma user_version").fetchone()
                if version != VERSION:
                    for table in ("file", "line"):
                        database.execute(f"drop table if exists {table}")
                    for table in _TABLES:
                        database.execute(table)
                    database.execute(f"pragma user_version = {VERSION}")
        except BaseException:
            database.close()
            raise
        return database

    def close(self) -> None:
        """Close the file."""
        self._database.close()

    def known_up_to(self, file: str, stamp: str, *, may_grow: bool) -> int | None:
        """From which byte on a file in this state has to be read; None: all of it is known.

        `may_grow`: it is appended to, so that what is known of it stays true.
        """
        row = self._database.execute(
            "select stamp, size from file where name = ?", (file,)
        ).fetchone()
        if row is None:
            return 0
        known, size = row
        if known == stamp:
            return None
        inode, now_bytes, _ = stamp.split(":")
        same = may_grow and known.split(":")[0] == inode and size <= int(now_bytes)
        return int(size) if same else 0

    def learn(
        self, file: str, stamp: str, start: int, records: Iterable[tuple[int, int, ArchivedJob]]
    ) -> None:
        """Note the records of a file from `start` on: where each begins and ends, and the job."""
        size = start
        with transaction(self._database):
            self._database.execute("delete from line where file = ? and start >= ?", (file, start))
            for offset, end, job in records:
                self._database.execute(
                    "insert into line values (?, ?, ?, ?, ?, ?, ?)",
                    (file, offset, job.queue, job.id, job.name, job.outcome, job.finished_on),
                )
                size = end
            self._database.execute(
                "insert or replace into file values (?, ?, ?)", (file, stamp, size)
            )

    def restamp(self, file: str, stamp: str) -> None:
        """Note a new state of a file whose lines are the same."""
        self._database.execute("update file set stamp = ? where name = ?", (stamp, file))

    def forget_all_but(self, files: Container[str]) -> None:
        """Forget files that are no longer there."""
        known = self._database.execute("select name from file").fetchall()
        gone = [name for name in known if name[0] not in files]
        if gone:
            with transaction(self._database):
                self._database.executemany("delete from line where file = ?", gone)
                self._database.executemany("delete from file where name = ?", gone)

    def missing(self, jobs: Sequence[ArchivedJob]) -> list[ArchivedJob]:
        """Those of the jobs that are in no file, each once."""
        fresh = {job.key: job for job in reversed(jobs) if not self._knows(job)}
        return list(reversed(fresh.values()))

    def _knows(self, job: ArchivedJob) -> bool:
        return self.get(*job.key) is not None

    def find(self, wanted: Wanted, after: Place | None, limit: int) -> list[Place]:
        """Where the records are that are wanted, last written first, none of them twice."""
        where, values = conditions(wanted)
        where = f"({where}) and {_FIRST}"
        if after is not None:
            where = f"({where}) and (file, start) < (?, ?)"
            values += [after.file, after.offset]
        return self._places(f"{where} order by file desc, start desc limit ?", [*values, limit])

    def get(self, queue: str, id: str, finished_on: int | None) -> Place | None:
        """Where the record of a job is: as it finished then, or as it finished last."""
        found = self._places(
            "queue = ? and id = ? and finished_on = ifnull(?, finished_on)"
            " order by finished_on desc, file, start limit 1",
            [queue, id, finished_on],
        )
        return found[0] if found else None

    def places_of(self, queue: str, id: str) -> list[Place]:
        """Where all records of a job are."""
        return self._places("queue = ? and id = ?", [queue, id])

    def _places(self, condition: str, values: Sequence[Any]) -> list[Place]:
        # The condition is made in this module, and no value stands in it.
        text = f"select file, start from line where {condition}"  # noqa: S608
        return [Place(*row) for row in self._database.execute(text, values)]
