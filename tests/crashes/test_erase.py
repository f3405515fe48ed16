"""An erasure is cut off at every boundary: done again it leaves nothing that names the job, and the
others have all that is theirs.
"""

from __future__ import annotations

import asyncio
import shutil
from pathlib import Path
from typing import Any, cast

import pytest
import redis

from tests.crashes.scene import NOW, process, sound, sweep, time_passes
from tests.crashes.test_archive import in_files, in_sqlite
from tests.support.crashes import HOWS, How, at_each_boundary
from toril import ActiveJob, Flow
from toril_plugins import Keep, Retention

SECRET = "ada@example.org"
JOURNAL = "bull:q:toril:cleanup:journal"
"""It tells which job was erased, by whom and when."""
HOUR = 3_600_000


async def tell(job: ActiveJob) -> Any:
    await job.log(f"wrote to {job.data}")
    return job.data


async def prepare(url: str, config: Any) -> None:
    """A job that is in its parent, in the stream and in the archive, where an earlier run of it is
    too; and another one that is not to be touched."""
    async with process(url, config=config, now=NOW - 2 * HOUR) as app:
        settings = Retention(completed=Keep(age="1h"))
        for name in ("erased", "other"):
            await app.queue("q").add(
                "do", {"to": SECRET if name == "erased" else "bob"}, settings, id=name
            )
        await app.worker("q", tell).run(burst=True)
    await sweep(url, config=config)
    async with process(url, config=config) as app:
        child = Flow("q", "do", {"to": SECRET}, id="erased")
        other = Flow("q", "do", {"to": "bob"}, id="other")
        await app.add_flow(Flow("p", "parent", children=[child, other], id="parent"))
        await app.worker("q", tell).run(burst=True)
        await app.worker("p", tell_nothing).run(burst=True)


async def tell_nothing(job: ActiveJob) -> None:
    """The parent."""


def named(raw: redis.Redis, word: str) -> list[str]:
    """The keys that hold a word, or have it in their names."""
    found: list[str] = []
    for key in cast("list[str]", list(raw.scan_iter(count=1000))):
        commands: dict[object, tuple[Any, ...]] = {
            "string": ("GET", key),
            "hash": ("HGETALL", key),
            "list": ("LRANGE", key, 0, -1),
            "set": ("SMEMBERS", key),
            "zset": ("ZRANGE", key, 0, -1),
            "stream": ("XRANGE", key, "-", "+"),
        }
        execute: Any = raw.execute_command
        if word in f"{key} {execute(*commands[raw.type(key)])}":
            found.append(key)
    return found


async def erase(url: str, config: Any) -> None:
    async with process(url, config=config) as app:
        await app.queue("q").erase("erased")


@pytest.mark.parametrize("how", HOWS)
def test_an_erasure_that_is_cut_off(
    redis_url: str, raw: redis.Redis, tmp_path: Path, how: How
) -> None:
    folder, spare = tmp_path / "archive", tmp_path / "spare"
    folder.mkdir()
    config: Any = {"archive": {"sqlite": str(folder / "jobs.db"), "jsonl": str(folder / "lines")}}
    asyncio.run(prepare(redis_url, config))
    time_passes(raw)
    assert sorted(job_id for _, job_id, _ in in_sqlite(folder)) == ["erased", "other"]
    assert {"bull:p:parent:processed", "bull:q:events"} <= set(named(raw, "erased"))
    others = named(raw, "other")
    shutil.copytree(folder, spare)
    crashes = 0
    for _ in at_each_boundary(raw, lambda: erase(redis_url, config), how):
        crashes += 1
        sound(raw)
        time_passes(raw)
        asyncio.run(erase(redis_url, config))
        time_passes(raw)
        assert named(raw, SECRET) == []
        assert set(named(raw, "erased")) <= {JOURNAL}
        assert [job_id for _, job_id, _ in in_sqlite(folder)] == ["other"]
        assert [job_id for _, job_id, _ in in_files(folder)] == ["other"]
        files = [path for path in folder.rglob("*") if path.is_file()]
        assert not any(SECRET.encode() in path.read_bytes() for path in files)
        assert set(others) <= set(named(raw, "other"))
        sound(raw, at_rest=True)
        shutil.rmtree(folder)
        shutil.copytree(spare, folder)
    assert crashes > 3
