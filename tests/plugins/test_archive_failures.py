"""Every call of every store fails once, before or after it has kept the jobs: nothing is lost."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import pytest
import redis
from tests.plugins.test_archive import archiving
from tests.support.place import Place, foreign_finish

from toril_plugins import Retention
from toril_plugins.archive import Archive, ArchivedJob, Wanted
from toril_plugins.archive.jsonl import JsonlStore
from toril_plugins.archive.sqlite import SqliteStore

STORES = {"sqlite": SqliteStore, "jsonl": JsonlStore}
When = Literal["before", "after"]
JOBS = 250  # more than a slice of the sweeper takes


class FailsAt:
    """Lets the n-th call of any store's `add` fail, before or after it has done its work."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, number: int, when: When) -> None:
        self.left = number
        for kind in STORES.values():
            self._wrap(monkeypatch, kind, when)

    def _wrap(self, monkeypatch: pytest.MonkeyPatch, kind: Any, when: When) -> None:
        real = kind.add

        def add(store: Any, jobs: Sequence[ArchivedJob]) -> int:
            self.left -= 1
            if self.left == 0 and when == "before":
                raise OSError("no room, on purpose")
            added: int = real(store, jobs)
            if self.left == 0:
                raise OSError("died, on purpose")
            return added

        monkeypatch.setattr(kind, "add", add)


async def kept_in(place: Place, store: str) -> list[tuple[str, int]]:
    """What a store has, by id and time of finish, with repetitions if there were any."""
    page = await Archive.of(place.app).find(Wanted(), limit=1_000, store=store)
    return sorted((job.id, job.finished_on) for job in page.jobs)


@pytest.mark.parametrize("when", ["before", "after"])
async def test_a_store_that_fails_at_any_call(
    redis_url: str,
    raw: redis.Redis,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    when: When,
) -> None:
    number = 0
    while True:
        number += 1
        raw.flushall()
        folder = tmp_path / str(number)
        folder.mkdir()
        table = {"sqlite": str(folder / "a.db"), "jsonl": str(folder / "lines")}
        with monkeypatch.context() as patch:
            fails = FailsAt(patch, number, when)
            async with archiving(redis_url, table) as here:
                start = here.clock.now_ms()
                ids = [f"j{n:03}" for n in range(JOBS)]
                for n, each in enumerate(ids):
                    foreign_finish(raw, each, at=start - n, data={"n": n})
                await here.queue.set(Retention(completed="1h"))
                await here.sweep("1h")
                left = await here.kept()
                for store in STORES:
                    safe = {id for id, _ in await kept_in(here, store)}
                    assert set(ids) - left <= safe, f"{store}: gone, and not archived"
                for _ in range(4):
                    await here.sweep("1h")
                assert not await here.kept()
                expected = sorted((each, start - n) for n, each in enumerate(ids))
                for store in STORES:
                    assert await kept_in(here, store) == expected
        if fails.left > 0:
            break
    assert number > 4, "several slices, and two stores each"
