"""A sweep that archives is cut off at every boundary: whatever is gone is in the archive, and it is
not there twice or under another identity.
"""

from __future__ import annotations

import asyncio
import gzip
import json
import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import redis

from tests.crashes.scene import NOW, kept, noted, sound, sweep, time_passes
from tests.crashes.test_sweep import LATER, prepare
from tests.support.crashes import FILE_HOWS, HOWS, FileHow, How, Stored, at_each_boundary

WRITES = ("killed before it writes", "killed in a write")
"""Of these there are few in one sweep."""
Identity = tuple[str, str, int]
"""Queue, id, and when it finished."""


def present(raw: redis.Redis) -> set[Identity]:
    """The finished jobs that are there."""
    found: set[Identity] = set()
    for queue, state in product(("q", "p"), ("completed", "failed")):
        ended: Any = raw.zrange(f"bull:{queue}:{state}", 0, -1, withscores=True)
        found |= {(queue, job_id, int(score)) for job_id, score in ended}
    return found


def in_sqlite(folder: Path) -> list[Identity]:
    if not (folder / "jobs.db").exists():
        return []
    with closing(sqlite3.connect(folder / "jobs.db")) as database:
        if not database.execute("select 1 from sqlite_master where name = 'job'").fetchone():
            return []
        return database.execute("select queue, id, finished_on from job").fetchall()


def lines_of(folder: Path) -> Iterator[str]:
    """All lines of the files that count."""
    for path in sorted((folder / "lines").glob("*.jsonl*")):
        if path.suffix == ".jsonl" and path.with_suffix(".jsonl.gz").exists():
            continue  # packed, but not yet taken away
        if path.suffix in (".jsonl", ".gz"):
            read = gzip.open if path.suffix == ".gz" else open
            with read(path, "rt") as lines:
                yield from lines


def in_files(folder: Path) -> list[Identity]:
    records = [json.loads(line) for line in lines_of(folder) if line.endswith("\n")]
    return [(each["queue"], each["id"], each["finished_on"]) for each in records]


@pytest.mark.parametrize("how", [*HOWS, *FILE_HOWS])
def test_a_sweep_that_archives(
    redis_url: str, raw: redis.Redis, tmp_path: Path, how: How | FileHow
) -> None:
    folder, many = tmp_path / "archive", 60 if how in HOWS else 12 if how in WRITES else 8
    config: Any = {
        "archive": {
            "sqlite": str(folder / "jobs.db"),
            "jsonl": str(folder / "lines"),
            "rotate_bytes": 5000,
        }
    }
    asyncio.run(prepare(redis_url, raw, many=many))
    beginning, before = Stored(raw), present(raw)
    folder.mkdir()
    asyncio.run(sweep(redis_url, config=config, times=(NOW, *LATER)))
    expected, left, gone = kept(raw), noted(raw), before - present(raw)
    assert len(gone) == many + 4
    assert sorted(in_sqlite(folder)) == sorted(in_files(folder)) == sorted(gone)

    beginning.put_back()
    shutil.rmtree(folder)
    folder.mkdir()
    crashes = 0
    times = (NOW, *LATER) if how in WRITES else (NOW,)
    for _ in at_each_boundary(raw, lambda: sweep(redis_url, config=config, times=times), how):
        crashes += 1
        gone = before - present(raw)
        assert gone <= set(in_sqlite(folder))
        assert gone <= set(in_files(folder))
        sound(raw)
        time_passes(raw)
        asyncio.run(sweep(redis_url, config=config, times=LATER))
        assert (kept(raw), noted(raw)) == (expected, left)
        gone = before - present(raw)
        assert sorted(in_sqlite(folder)) == sorted(in_files(folder)) == sorted(gone)
        sound(raw)
        assert not list((folder / "lines").glob("*.unfinished"))
        assert all(line.endswith("\n") for line in lines_of(folder))
        shutil.rmtree(folder)
        folder.mkdir()
    assert crashes > (1 if how == "killed in a write" else 10)
