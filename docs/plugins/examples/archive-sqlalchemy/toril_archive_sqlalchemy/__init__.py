"""A store for Toril's archive in a database, through SQLAlchemy.

It is chosen by `store = "sqlalchemy"` in the table `archive` of the configuration; the table
`archive.options` has `url`, the database as SQLAlchemy names it, and `table` (`toril_archive`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite

from toril import ConfigurationError, hookimpl
from toril.plugins import Clock, Registry
from toril_plugins.archive import STORE_KIND, ArchivedJob, Page, Wanted

INSERTS: Mapping[str, Callable[[sa.Table], postgresql.Insert | sqlite.Insert]] = {
    "postgresql": postgresql.insert,
    "sqlite": sqlite.insert,
}


@hookimpl
def toril_register(registry: Registry) -> None:
    """Offer the store."""
    registry.name(STORE_KIND, "sqlalchemy", open_store)


def open_store(options: Mapping[str, Any], clock: Clock) -> SqlalchemyStore:
    """Open the store with the options of the table `archive.options`."""
    del clock  # the database needs none
    unknown = options.keys() - {"url", "table"}
    if unknown or not options.get("url"):
        raise ConfigurationError(
            f"the options of the store 'sqlalchemy' are url (needed) and table, not {dict(options)}"
        )
    return SqlalchemyStore(options["url"], options.get("table", "toril_archive"))


class SqlalchemyStore:
    """Archived jobs in one table, a row per record.

    `record` is the record as Toril's archive writes it, the other columns are there to search by.

    Args:
        url: the database, as SQLAlchemy names it.
        table: the table; made if it is not there.

    Raises:
        ConfigurationError: a database that cannot insert "unless it is there" atomically.
    """

    def __init__(self, url: str, table: str = "toril_archive") -> None:
        self._engine = sa.create_engine(url, pool_size=1, max_overflow=1, pool_pre_ping=True)
        if self._engine.dialect.name not in INSERTS:
            known = ", ".join(INSERTS)
            raise ConfigurationError(
                f"the store 'sqlalchemy' knows {known}, not {self._engine.dialect.name}"
            )
        number = sa.BigInteger().with_variant(sa.Integer, "sqlite")
        self._table = sa.Table(
            table,
            sa.MetaData(),
            sa.Column("seq", number, sa.Identity(), primary_key=True),
            sa.Column("queue", sa.Text, nullable=False),
            sa.Column("id", sa.Text, nullable=False),
            sa.Column("name", sa.Text, nullable=False),
            sa.Column("outcome", sa.Text, nullable=False),
            sa.Column("finished_on", sa.BigInteger, nullable=False),
            sa.Column("archived_on", sa.BigInteger, nullable=False),
            sa.Column("record", sa.Text, nullable=False),
            sa.UniqueConstraint("queue", "id", "finished_on"),
            sa.Index(f"{table}_by_finish", "queue", "finished_on"),
        )
        self._table.metadata.create_all(self._engine)

    def add(self, jobs: Sequence[ArchivedJob]) -> int:
        """Keep these jobs, in one transaction; return how many were not there before."""
        if not jobs:
            return 0
        insert = INSERTS[self._engine.dialect.name](self._table)
        fresh = insert.on_conflict_do_nothing().returning(self._table.c.seq)
        with self._engine.begin() as connection:
            return len(connection.execute(fresh, [_row(job) for job in jobs]).all())

    def find(self, wanted: Wanted, after: str | None = None, limit: int = 100) -> Page:
        """Some of those that are wanted, last archived first."""
        column = self._table.c
        query = sa.select(column.seq, column.record).order_by(column.seq.desc()).limit(limit)
        for name in ("queue", "id", "outcome", "name"):
            value = getattr(wanted, name)
            if value is not None:
                query = query.where(column[name] == _text(value))
        if wanted.since is not None:
            query = query.where(column.finished_on >= wanted.since)
        if wanted.until is not None:
            query = query.where(column.finished_on < wanted.until)
        if after is not None:
            query = query.where(column.seq < int(after))
        with self._engine.connect() as connection:
            rows = connection.execute(query).all()
        jobs = [ArchivedJob.decode(record.encode()) for _, record in rows]
        return Page(jobs, str(rows[-1].seq) if len(rows) == limit else None)

    def get(self, queue: str, id: str, finished_on: int | None = None) -> ArchivedJob | None:
        """One job: as it finished then, or as it finished last."""
        column = self._table.c
        query = sa.select(column.record).where(self._is(queue, id))
        if finished_on is not None:
            query = query.where(column.finished_on == finished_on)
        with self._engine.connect() as connection:
            record = connection.scalar(query.order_by(column.finished_on.desc()).limit(1))
        return None if record is None else ArchivedJob.decode(record.encode())

    def erase(self, queue: str, id: str) -> int:
        """Forget all records of a job. What vacuum, backups and replicas still hold is not ours."""
        with self._engine.begin() as connection:
            gone = connection.execute(sa.delete(self._table).where(self._is(queue, id)))
        return gone.rowcount

    def close(self) -> None:
        """Close the connections."""
        self._engine.dispose()

    def _is(self, queue: str, id: str) -> sa.ColumnElement[bool]:
        column = self._table.c
        return sa.and_(column.queue == _text(queue), column.id == _text(id))


def _row(job: ArchivedJob) -> dict[str, Any]:
    return {
        "queue": _text(job.queue),
        "id": _text(job.id),
        "name": _text(job.name),
        "outcome": job.outcome,
        "finished_on": job.finished_on,
        "archived_on": job.archived_on,
        "record": job.encode().decode(),
    }


def _text(value: str) -> str:
    """A text to search by. PostgreSQL takes no NUL; the record has it all the same, as JSON."""
    return value.replace("\0", "\N{REPLACEMENT CHARACTER}")
