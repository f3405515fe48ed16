"""What a store that the archive plugin keeps jobs in keeps to."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator
from dataclasses import replace
from typing import Final

import pytest

from toril_plugins.archive import ArchivedJob, ArchiveStore, Wanted

ARCHIVED: Final = ArchivedJob(
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
"""A job as it is archived, with bytes that are no text."""
ODD: Final = tuple(
    replace(ARCHIVED, id=id, queue=queue, name=name)
    for id, queue, name in (
        ("ж\0/../..", "..", "\0"),
        ("x" * 200, "a b?*[", "'; drop"),
        ("-", "queue=mail", ""),
    )
)
"""Jobs whose names try what a store writes them into."""


class ArchiveStoreContract:
    """What a store of the archive plugin (`ArchiveStore`) keeps to.

        class TestFolder(ArchiveStoreContract):
            def open_store(self) -> ArchiveStore: ...

    What is added comes back byte for byte, also in another process; the same job is kept once; it
    is searched, read in pages and erased.
    """

    @abstractmethod
    def open_store(self) -> ArchiveStore:
        """Open the archive of this test: empty at first, and the same one each time."""

    @pytest.fixture
    def store(self) -> Iterator[ArchiveStore]:
        """The archive, opened."""
        made = self.open_store()
        yield made
        made.close()

    def test_what_is_added_comes_back_byte_for_byte(self, store: ArchiveStore) -> None:
        """Another process reads what this one has added."""
        assert store.add([ARCHIVED, *ODD]) == 1 + len(ODD)
        other = self.open_store()
        found = [other.get(job.queue, job.id) for job in (ARCHIVED, *ODD)]
        assert found == [ARCHIVED, *ODD]
        assert other.get("mail", "b") is None
        assert other.get("nowhere", "a") is None
        other.close()

    def test_archived_twice_is_one_record(self, store: ArchiveStore) -> None:
        """The same finish of the same job; another finish is another record."""
        assert store.add([ARCHIVED, replace(ARCHIVED, rule="other")]) == 1
        again = [replace(ARCHIVED, archived_on=9), replace(ARCHIVED, finished_on=7)]
        assert store.add(again) == 1
        assert store.add([]) == 0
        assert store.get("mail", "a") == ARCHIVED
        assert store.get("mail", "a", 7) == replace(ARCHIVED, finished_on=7)
        assert len(store.find(Wanted()).jobs) == 2

    def test_it_is_searched_and_read_in_pages(self, store: ArchiveStore) -> None:
        """Last archived first."""
        assert list(store.find(Wanted()).jobs) == []
        jobs = [
            replace(ARCHIVED, id=str(n), finished_on=n, outcome="failed" if n % 2 else "completed")
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
            assert list(store.find(wanted).jobs) == expected
        first = store.find(Wanted(), limit=6)
        second = store.find(Wanted(), first.after, limit=6)
        assert [*first.jobs, *second.jobs] == jobs[::-1]
        assert second.after is None

    def test_a_place_that_is_none(self, store: ArchiveStore) -> None:
        """A page goes on behind a place of this store only."""
        store.add([ARCHIVED])
        with pytest.raises(ValueError, match=r"nowhere|place"):
            store.find(Wanted(), "nowhere")

    def test_what_is_erased_is_gone(self, store: ArchiveStore) -> None:
        """Every record of a job."""
        store.add([ARCHIVED, replace(ARCHIVED, finished_on=7), replace(ARCHIVED, id="b")])
        assert (store.erase("mail", "a"), store.erase("mail", "a")) == (2, 0)
        assert [job.id for job in store.find(Wanted()).jobs] == ["b"]
