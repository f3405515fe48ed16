"""The archive's record and stores: exact, idempotent, and whole again after a crash."""

from __future__ import annotations

import gzip
import json
import os
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from toril import ConfigurationError
from toril.plugins import ManualClock
from toril_plugins.archive import ArchivedJob, ArchiveStore, UnreadableRecord, Wanted
from toril_plugins.archive.index import Index
from toril_plugins.archive.jsonl import JsonlStore
from toril_plugins.archive.sqlite import SqliteStore

START = 1_790_000_000_000
Make = Callable[[], ArchiveStore]


def job(id: str = "a", finished_on: int = START, **changed: Any) -> ArchivedJob:
    made = ArchivedJob(
        queue="q",
        id=id,
        name="do",
        outcome="completed",
        finished_on=finished_on,
        archived_on=finished_on + 5,
        rule="queue: 7d",
        fields={b"name": b"do", b"data": b'{"n":9007199254740993}', b"returnvalue": b"1"},
        logs=[b"one", "zwölf".encode()],
        children={"processed": {b"bull:q:c": b"true"}},
    )
    return replace(made, **changed)


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock(START)


def jsonl(folder: Path, clock: ManualClock, **options: int) -> JsonlStore:
    given: dict[str, Any] = {"rotate_bytes": 2**20, "rotate_age": 86_400_000, **options}
    return JsonlStore(folder, clock=clock, **given)


@pytest.fixture(params=["sqlite", "jsonl"])
def make(request: pytest.FixtureRequest, tmp_path: Path, clock: ManualClock) -> Iterator[Make]:
    """Opens the same store, again and again."""
    opened: list[ArchiveStore] = []

    def open_it() -> ArchiveStore:
        if request.param == "sqlite":
            opened.append(SqliteStore(tmp_path / "archive.db"))
        else:
            opened.append(jsonl(tmp_path / "archive", clock, rotate_bytes=2_000))
        return opened[-1]

    yield open_it
    for store in opened:
        store.close()


def ids(store: ArchiveStore, wanted: Wanted | None = None) -> list[str]:
    return [found.id for found in store.find(wanted or Wanted(), limit=1_000).jobs]


raw = st.binary(max_size=40) | st.text(max_size=20).map(lambda text: text.encode("utf-8", "ignore"))


class TestRecord:
    @given(
        st.dictionaries(raw, raw, max_size=5),
        st.lists(raw, max_size=4),
        st.dictionaries(st.sampled_from(["processed", "failed"]), st.dictionaries(raw, raw)),
    )
    def test_what_is_encoded_comes_back_byte_for_byte(
        self, fields: dict[bytes, bytes], logs: list[bytes], children: Any
    ) -> None:
        made = job(fields=fields, logs=tuple(logs), children=children)
        record = made.encode()
        assert b"\n" not in record
        assert ArchivedJob.decode(record) == made

    def test_text_is_text(self) -> None:
        stored = json.loads(job().encode())
        assert stored["v"] == 1
        assert stored["fields"]["data"] == '{"n":9007199254740993}'
        assert stored["logs"] == ["one", "zwölf"]
        assert stored["children"] == {"processed": {"bull:q:c": "true"}}

    def test_it_reads_as_a_job(self) -> None:
        assert job().job.data == {"n": 9007199254740993}
        assert (job().job.result, job().job.outcome) == (1, "completed")

    @pytest.mark.parametrize(
        "record",
        [
            b"",
            b"{}",
            b"[]",
            b"7",
            b'{"v":1}',
            b'{"v":1,"outcome":"x"}',
            job().encode()[:-9],
            job().encode().replace(b'"completed"', b'"waiting"'),
            job().encode().replace(b'"one"', b'{"base64":"?"}'),
        ],
    )
    def test_what_is_no_record_is_said_to_be_none(self, record: bytes) -> None:
        with pytest.raises(UnreadableRecord, match="not a record"):
            ArchivedJob.decode(record)

    def test_a_newer_one_is_not_guessed_at(self) -> None:
        with pytest.raises(UnreadableRecord, match="version 2, which was made by a newer Toril"):
            ArchivedJob.decode(job().encode().replace(b'"v":1', b'"v":2'))


class TestEveryStore:
    def test_what_is_added_is_there_also_for_the_next_process(self, make: Make) -> None:
        binary = job("b", fields={b"data": bytes(range(256)), b"\xff": b""}, logs=[b"\xfe\n"])
        assert make().add([job(), binary]) == 2
        other = make()
        assert other.get("q", "a") == job(logs=(b"one", "zwölf".encode()))
        assert other.get("q", "b") == replace(binary, logs=(b"\xfe\n",))
        assert other.get("q", "c") is None
        assert other.get("r", "a") is None

    def test_archived_twice_is_one_record_and_the_first_one_stays(self, make: Make) -> None:
        store = make()
        assert store.add([job(), job(archived_on=9)]) == 1
        assert store.add([job(archived_on=7), job("b")]) == 1
        assert make().add([job(rule="other")]) == 0
        assert ids(store) == ["b", "a"]
        assert store.get("q", "a") == replace(job(), logs=(b"one", "zwölf".encode()))

    def test_a_job_that_ran_again_is_another_record(self, make: Make) -> None:
        store = make()
        store.add([job(), job(finished_on=START + 1, outcome="failed")])
        newest, oldest = store.get("q", "a"), store.get("q", "a", START)
        assert newest is not None
        assert oldest is not None
        assert (newest.outcome, oldest.outcome) == ("failed", "completed")
        assert store.get("q", "a", 5) is None

    def test_it_is_searched_and_read_in_pages(self, make: Make) -> None:
        store = make()
        store.add([job(str(n), START + n, outcome="failed" if n % 3 else "completed")
                   for n in range(20)])  # fmt: skip
        store.add([job("x", START + 5, queue="r", name="other")])
        assert ids(store) == ["x", *(str(n) for n in reversed(range(20)))]
        assert ids(store, Wanted(queue="r")) == ids(store, Wanted(name="other")) == ["x"]
        assert ids(store, Wanted(outcome="completed", queue="q", since=START + 3)) == [
            "18", "15", "12", "9", "6", "3",
        ]  # fmt: skip
        assert ids(store, Wanted(until=START + 2)) == ["1", "0"]
        assert ids(store, Wanted(id="7")) == ["7"]
        seen: list[str] = []
        after: str | None = None
        while True:
            page = store.find(Wanted(queue="q"), after, 7)
            seen += [found.id for found in page.jobs]
            after = page.after
            store.add([job(f"late{len(seen)}", START + 50)])
            if after is None:
                break
        assert seen == [str(n) for n in reversed(range(20))]
        with pytest.raises(ValueError, match=r"archive|int"):
            store.find(Wanted(), "nowhere")

    def test_wanted_says_the_same_in_python(self, make: Make) -> None:
        store = make()
        jobs = [job(str(n), START + n, outcome="failed" if n % 2 else "completed", name=f"n{n % 3}")
                for n in range(12)]  # fmt: skip
        store.add(jobs)
        for wanted in (
            Wanted(),
            Wanted(queue="q", outcome="failed"),
            Wanted(name="n1", since=START + 4),
            Wanted(until=START + 4, id="2"),
            Wanted(queue="r"),
        ):
            expected = [each.id for each in reversed(jobs) if wanted.matches(each)]
            assert ids(store, wanted) == expected

    def test_what_is_erased_is_nowhere(self, make: Make, tmp_path: Path) -> None:
        store = make()
        secret = "klmnopqrstuvwxyz" * 40
        store.add([job(f"before{n}") for n in range(5)])
        store.add([job(fields={b"data": secret.encode()}), job(finished_on=START + 1)])
        store.add([job(f"after{n}") for n in range(20)])
        assert store.erase("q", "a") == 2
        assert store.get("q", "a") is None
        assert (store.erase("q", "a"), len(ids(store))) == (0, 25)
        for path in tmp_path.rglob("*"):
            if path.is_file():
                content = path.read_bytes()
                content += gzip.decompress(content) if path.suffix == ".gz" else b""
                assert secret.encode() not in content, path
        other = make()
        assert other.get("q", "before0") is not None
        assert other.get("q", "after19") is not None
        assert len(ids(other)) == 25

    def test_many_at_once_write_each_job_once(self, make: Make) -> None:
        stores = [make() for _ in range(4)]
        jobs = [job(str(n)) for n in range(60)]

        def add_all(store: ArchiveStore) -> int:
            return sum(store.add(jobs[n : n + 5]) for n in range(0, 60, 5))

        with ThreadPoolExecutor(4) as pool:
            assert sum(pool.map(add_all, stores)) == 60
        assert sorted(ids(stores[0]), key=int) == [str(n) for n in range(60)]


class TestSqlite:
    def test_a_file_that_is_no_archive_is_refused(self, tmp_path: Path) -> None:
        (tmp_path / "text").write_text("this is not a database, and long enough" * 9)
        with pytest.raises(ConfigurationError, match=r"cannot be opened|not a database"):
            SqliteStore(tmp_path / "text")
        with pytest.raises(ConfigurationError, match="cannot be opened"):
            SqliteStore(tmp_path / "no" / "folder")
        with closing(sqlite3.connect(tmp_path / "newer")) as database:
            database.execute("pragma user_version = 2")
        with pytest.raises(ConfigurationError, match="is of version 2; this Toril knows 1"):
            SqliteStore(tmp_path / "newer")

    def test_it_is_on_the_disk_when_add_returns(self, tmp_path: Path) -> None:
        with closing(SqliteStore(tmp_path / "a")) as store:
            (mode,) = store._database.execute("pragma journal_mode").fetchone()
            (synchronous,) = store._database.execute("pragma synchronous").fetchone()
        assert (mode, synchronous) == ("wal", 2)

    def test_a_batch_is_kept_whole_or_not_at_all(self, tmp_path: Path) -> None:
        with closing(SqliteStore(tmp_path / "a")) as store:
            bad: Any = job("b", queue=None)
            with pytest.raises(sqlite3.IntegrityError):
                store.add([job(), bad])
            assert ids(store) == []
            assert store.add([job()]) == 1


class TestJsonl:
    def test_files_are_followed_by_the_next_and_compressed(
        self, tmp_path: Path, clock: ManualClock
    ) -> None:
        with closing(jsonl(tmp_path, clock, rotate_bytes=3 * len(job().encode()))) as store:
            for n in range(6):
                store.add([job(str(n))])
                clock.advance("1s")
        files = sorted(path.name for path in tmp_path.glob("jobs-*"))
        assert files == [
            "jobs-20260921T141320.000Z.jsonl.gz",
            "jobs-20260921T141323.000Z.jsonl.gz",
        ]
        lines = b"".join(gzip.decompress((tmp_path / name).read_bytes()) for name in files)
        assert [json.loads(line)["id"] for line in lines.splitlines()] == list("012345")

    def test_and_after_their_time(self, tmp_path: Path, clock: ManualClock) -> None:
        with closing(jsonl(tmp_path, clock, rotate_age=3_600_000)) as store:
            store.add([job("a")])
            clock.advance("59m")
            store.add([job("b")])
            clock.advance("1m")
            store.add([job("c")])
            assert len(list(tmp_path.glob("jobs-*.gz"))) == 1
            assert ids(store) == ["c", "b", "a"]

    def test_a_clock_that_goes_back_does_not_disturb_the_order(
        self, tmp_path: Path, clock: ManualClock
    ) -> None:
        found: list[str] = []
        for n in range(3):
            earlier = ManualClock(START - n * 3_600_000)
            with closing(jsonl(tmp_path, earlier, rotate_bytes=1)) as store:
                store.add([job(str(n))])
                found = ids(store)
        assert found == ["2", "1", "0"]

    def test_a_torn_line_is_passed_over_and_cut_off(
        self, tmp_path: Path, clock: ManualClock
    ) -> None:
        whole, torn = job("a").encode() + b"\n", job("b").encode()
        for length in (1, len(torn) // 2, len(torn)):
            folder = tmp_path / str(length)
            folder.mkdir()
            path = folder / "jobs-20260921T131320.000Z.jsonl"
            path.write_bytes(whole + torn[:length])
            with closing(jsonl(folder, clock)) as store:
                assert ids(store) == ["a"]
                assert store.add([job("b"), job("c")]) == 2
            assert path.read_bytes() == whole + torn + b"\n" + job("c").encode() + b"\n"

    def test_a_line_that_is_torn_when_its_file_is_packed_is_not_packed(
        self, tmp_path: Path, clock: ManualClock
    ) -> None:
        with closing(jsonl(tmp_path, clock)) as store:
            store.add([job("a")])
        (path,) = tmp_path.glob("jobs-*.jsonl")
        with path.open("ab") as file:
            file.write(b'{"v":1,"que')
        clock.advance("2d")
        with closing(jsonl(tmp_path, clock)) as store:
            store.add([job("b")])
        assert gzip.decompress(path.with_suffix(".jsonl.gz").read_bytes()).count(b"\n") == 1

    @pytest.mark.parametrize("gone", ["index.sqlite", "index.sqlite-wal", "*"])
    def test_the_index_is_made_anew(self, tmp_path: Path, clock: ManualClock, gone: str) -> None:
        with closing(jsonl(tmp_path, clock, rotate_bytes=900)) as store:
            for n in range(5):
                store.add([job(str(n))])
        for path in tmp_path.glob("index.sqlite*" if gone == "*" else gone):
            path.unlink()
        with closing(jsonl(tmp_path, clock)) as store:
            assert ids(store) == ["4", "3", "2", "1", "0"]
            assert store.add([job("3"), job("5")]) == 1

    def test_an_index_that_is_broken_or_of_another_version_is_made_anew(
        self, tmp_path: Path, clock: ManualClock
    ) -> None:
        with closing(jsonl(tmp_path, clock)) as store:
            store.add([job("a")])
        (tmp_path / "index.sqlite").write_bytes(b"no database at all, though long enough" * 30)
        with closing(jsonl(tmp_path, clock)) as store:
            assert ids(store) == ["a"]
            store._index._database.execute("pragma user_version = 99")
        with closing(jsonl(tmp_path, clock)) as store:
            assert ids(store) == ["a"]

    def test_files_of_others_and_lines_that_are_none_are_passed_over(
        self, tmp_path: Path, clock: ManualClock, caplog: pytest.LogCaptureFixture
    ) -> None:
        (tmp_path / "notes.txt").write_text("mine")
        (tmp_path / "jobs-copied.jsonl").write_bytes(
            job("a").encode() + b"\nwhat is this\n" + job("a").encode() + b"\n"
        )
        with closing(jsonl(tmp_path, clock)) as store:
            assert ids(store) == ["a"]
            assert "1 lines are no records" in caplog.text
            assert store.add([job("b"), job("a")]) == 1
            assert store.erase("q", "a") == 2
            assert ids(store) == ["b"]

    @pytest.mark.parametrize("step", range(1, 12))
    @pytest.mark.parametrize("what", ["rotate", "erase", "add"])
    def test_a_crash_at_any_step_loses_nothing_that_was_safe(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: str, step: int
    ) -> None:
        clock = ManualClock(START)
        store = jsonl(tmp_path, clock)
        store.add([job("a"), job("b")])
        crash = CrashAt(monkeypatch, step)
        later = jsonl(tmp_path, clock)
        try:
            if what == "rotate":
                clock.advance("2d")
                later.add([job("c")])
            elif what == "erase":
                later.erase("q", "a")
            else:
                later.add([job("b"), job("c")])
        except Crash:
            pass
        crash.undo()
        after = jsonl(tmp_path, clock)
        found = set(ids(after))
        assert found >= ({"b"} if what == "erase" else {"a", "b"})
        assert found <= {"a", "b", "c"}
        assert not list(tmp_path.glob("*.unfinished"))
        if what == "erase":
            after.erase("q", "a")
            assert ids(after) == ["b"]
        else:
            assert after.add([job("c")]) == int("c" not in found)
            assert sorted(ids(after)) == ["a", "b", "c"]
        for each in (store, later, after):
            each.close()

    def test_a_disk_that_is_full_leaves_no_half_line(
        self, tmp_path: Path, clock: ManualClock, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        with closing(jsonl(tmp_path, clock)) as store:
            store.add([job("a")])
            real = os.pwrite

            def half(file: int, text: bytes, at: int) -> int:
                if len(text) < 100:
                    raise OSError(28, "No space left on device")
                return real(file, text[: len(text) // 2], at)

            monkeypatch.setattr(os, "pwrite", half)
            with pytest.raises(OSError, match="No space left"):
                store.add([job("b")])
            monkeypatch.undo()
            (path,) = tmp_path.glob("jobs-*.jsonl")
            assert path.read_bytes() == job("a").encode() + b"\n"
            assert ids(store) == ["a"]

    def test_a_killed_process_leaves_what_it_had_synced(self, tmp_path: Path) -> None:
        program = (
            "import sys, os\n"
            "from pathlib import Path\n"
            "from tests.plugins.test_archive_stores import job, jsonl\n"
            "from toril.plugins import ManualClock\n"
            "store = jsonl(Path(sys.argv[1]), ManualClock(0), rotate_bytes=1500)\n"
            "for n in range(1000):\n"
            "    store.add([job(str(n))])\n"
            "    os.write(1, f'{n}\\n'.encode())\n"
        )
        with subprocess.Popen(
            [sys.executable, "-c", program, str(tmp_path)],
            stdout=subprocess.PIPE,
            cwd=Path(__file__).parents[2],
        ) as child:
            assert child.stdout is not None
            said = [child.stdout.readline() for _ in range(12)]
            child.kill()
            said += child.stdout.readlines()
        told = [int(line) for line in said]
        with closing(jsonl(tmp_path, ManualClock(START))) as store:
            found = [int(each) for each in ids(store)]
        assert found == sorted(found, reverse=True)
        assert len(told) <= len(found) <= len(told) + 1


class Crash(BaseException):
    """The process ends here."""


class CrashAt:
    """Ends the process before the n-th thing that is done to a file."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, step: int) -> None:
        self._left = step
        self._patch = monkeypatch
        for owner, name in (
            (os, "fsync"),
            (os, "pwrite"),
            (os, "ftruncate"),
            (Path, "unlink"),
            (Path, "replace"),
            (sys.modules[JsonlStore.__module__], "write"),
            (Index, "learn"),
            (Index, "restamp"),
        ):
            self._wrap(owner, name)

    def _wrap(self, owner: Any, name: str) -> None:
        real = getattr(owner, name)

        def counted(*arguments: Any, **named: Any) -> Any:
            self._left -= 1
            if self._left == 0:
                raise Crash
            return real(*arguments, **named)

        self._patch.setattr(owner, name, counted)

    def undo(self) -> None:
        self._patch.undo()
