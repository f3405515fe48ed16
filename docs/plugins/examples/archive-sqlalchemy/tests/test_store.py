"""The store. `ARCHIVE_TEST_URL` names the database; without it, SQLite in a folder of its own."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from toril_archive_sqlalchemy import SqlalchemyStore, open_store

from toril import ConfigurationError
from toril.plugins import ManualClock
from toril_plugins.archive import ArchivedJob, Wanted

JOB = ArchivedJob(
    queue="mail",
    id="a",
    name="welcome",
    outcome="completed",
    finished_on=1_790_000_000_000,
    archived_on=1_790_000_000_005,
    rule="queue: 7d",
    fields={b"name": b"welcome", b"data": b'{"n":9007199254740993}', b"\xff": bytes(range(256))},
    logs=(b"one", b"\xfe\x00"),
    children={"processed": {b"bull:mail:c": b"1.10"}},
)


@pytest.fixture
def url(tmp_path: Path) -> str:
    return os.environ.get("ARCHIVE_TEST_URL", f"sqlite:///{tmp_path / 'archive.db'}")


@pytest.fixture
def store(url: str) -> Iterator[SqlalchemyStore]:
    made = SqlalchemyStore(url, "archive_test")
    for job in made.find(Wanted()).jobs:
        made.erase(job.queue, job.id)
    yield made
    made.close()


def test_what_is_added_comes_back_byte_for_byte(store: SqlalchemyStore, url: str) -> None:
    odd = replace(JOB, id="ж\0'; drop", name="\0")
    assert store.add([JOB, odd]) == 2
    other = SqlalchemyStore(url, "archive_test")
    assert (other.get("mail", "a"), other.get("mail", odd.id)) == (JOB, odd)
    assert other.get("mail", "b") is None
    other.close()


def test_archived_twice_is_one_record(store: SqlalchemyStore) -> None:
    assert store.add([JOB, replace(JOB, rule="other")]) == 1
    assert store.add([replace(JOB, archived_on=9), replace(JOB, finished_on=7)]) == 1
    assert store.add([]) == 0
    assert store.get("mail", "a") == JOB
    assert store.get("mail", "a", 7) == replace(JOB, finished_on=7)


def test_it_is_searched_and_read_in_pages(store: SqlalchemyStore) -> None:
    jobs = [
        replace(JOB, id=str(n), finished_on=n, outcome="failed" if n % 2 else "completed")
        for n in range(10)
    ]
    store.add(jobs)
    for wanted in (
        Wanted(),
        Wanted(queue="mail", outcome="failed"),
        Wanted(id="3", name="welcome"),
        Wanted(since=3, until=6),
        Wanted(queue="other"),
    ):
        expected = [job for job in reversed(jobs) if wanted.matches(job)]
        assert store.find(wanted).jobs == expected
    first = store.find(Wanted(), limit=6)
    second = store.find(Wanted(), first.after, limit=6)
    assert [*first.jobs, *second.jobs] == jobs[::-1]
    assert second.after is None


def test_what_is_erased_is_gone(store: SqlalchemyStore) -> None:
    store.add([JOB, replace(JOB, finished_on=7), replace(JOB, id="b")])
    assert (store.erase("mail", "a"), store.erase("mail", "a")) == (2, 0)
    assert [job.id for job in store.find(Wanted()).jobs] == ["b"]


def test_wrong_options_are_said() -> None:
    for options in ({}, {"url": "sqlite://", "tabel": "x"}, {"url": "mysql://localhost"}):
        with pytest.raises((ConfigurationError, ModuleNotFoundError)):
            open_store(options, ManualClock())
