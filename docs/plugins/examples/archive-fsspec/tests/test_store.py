"""The store, on a local file system and on one in memory."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import fsspec
import pytest
from toril_archive_fsspec import FsspecStore, open_store

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


@pytest.fixture(params=["memory", "file"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    yield "memory://jobs" if request.param == "memory" else f"file://{tmp_path}/jobs"
    memory = fsspec.filesystem("memory")
    memory.store.clear()


@pytest.fixture
def store(url: str) -> FsspecStore:
    return FsspecStore(url)


def test_what_is_added_comes_back_byte_for_byte(store: FsspecStore, url: str) -> None:
    odd = [
        replace(JOB, id=id, queue=queue)
        for id, queue in (("ж\0/../..", ".."), ("x" * 4_000, "a b?*["), ("-", "queue=mail"))
    ]
    assert store.add([JOB, *odd]) == 4
    other = FsspecStore(url)
    assert [other.get(job.queue, job.id) for job in (JOB, *odd)] == [JOB, *odd]
    assert other.get("mail", "b") is None
    assert other.get("nowhere", "a") is None


def test_archived_twice_is_one_object(store: FsspecStore) -> None:
    assert store.add([JOB, replace(JOB, rule="other")]) == 1
    assert store.add([replace(JOB, archived_on=9), replace(JOB, finished_on=7)]) == 1
    assert store.add([]) == 0
    assert store.get("mail", "a") == JOB
    assert store.get("mail", "a", 7) == replace(JOB, finished_on=7)
    assert len(store.find(Wanted()).jobs) == 2


def test_it_is_searched_and_read_in_pages(store: FsspecStore) -> None:
    assert store.find(Wanted()).jobs == []
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
    with pytest.raises(ValueError, match="not a place"):
        store.find(Wanted(), "nowhere")


def test_what_is_erased_is_gone(store: FsspecStore) -> None:
    store.add([JOB, replace(JOB, finished_on=7), replace(JOB, id="b")])
    assert (store.erase("mail", "a"), store.erase("mail", "a")) == (2, 0)
    assert [job.id for job in store.find(Wanted()).jobs] == ["b"]


def test_a_torn_file_is_no_object(tmp_path: Path) -> None:
    store = FsspecStore(f"file://{tmp_path}")
    store.add([JOB])
    (path,) = tmp_path.rglob("*.json")
    path.with_name(f"{path.name}.77").write_bytes(path.read_bytes()[:30])
    path.unlink()
    assert store.find(Wanted()).jobs == []
    assert store.add([JOB]) == 1


def test_wrong_options_are_said() -> None:
    for options in ({}, {"url": "memory://x", "storage": {}}):
        with pytest.raises(ConfigurationError, match="are url"):
            open_store(options, ManualClock())
