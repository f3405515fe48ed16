"""The archives that the documentation shows: installed by pip, driven with a real queue."""

from __future__ import annotations

import asyncio
import importlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import fsspec
import pytest
import redis
import sqlalchemy
from tests.docs.blocks import DOCS
from tests.support.place import Place, Removed
from tests.support.postgres import Postgres

from toril import App
from toril.plugins import ManualClock
from toril_plugins import Keep, Requires, Retention
from toril_plugins.archive import Archive, Wanted

EXAMPLES = DOCS / "plugins" / "examples"
NAMES = ("archive-sqlalchemy", "archive-fsspec")

APP = """
from toril import ActiveJob, App, Unrecoverable
from toril_plugins import Keep, Requires, Retention

app = App()
NOTHING = Retention(completed=Keep.nothing(), failed=Keep.nothing())
queue = app.queue("mail", NOTHING, Requires("archive"))


async def send(job: ActiveJob) -> object:
    await job.log("sent " + str(job.data))
    if job.name == "bad":
        raise Unrecoverable("no such address")
    return {"to": job.data}


app.worker(queue, send)
"""


@pytest.fixture(scope="module")
def postgres() -> Iterator[Postgres]:
    started = Postgres.start()
    yield started
    started.stop()


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which both distributions are installed, as their users would."""
    folder = tmp_path_factory.mktemp("site")
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index"]
    options = ["--no-build-isolation", "--target", str(folder)]
    subprocess.run([*pip, *options, *(EXAMPLES / name for name in NAMES)], check=True)
    return folder


@dataclass(frozen=True)
class There:
    """A service that never heard of the archive: only its configuration names it."""

    folder: Path
    environ: Mapping[str, str] = field(default_factory=dict[str, str])

    def toril(self, *arguments: str, code: int | None = 0) -> str:
        done = subprocess.run(
            [sys.executable, "-P", "-m", "toril", *arguments],
            cwd=self.folder,
            env={**os.environ, **self.environ},
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )
        assert code in (None, done.returncode), done.stdout + done.stderr
        return done.stdout

    def documents(self, *arguments: str) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.toril(*arguments, "-o", "ndjson").splitlines()]


@pytest.fixture(params=NAMES)
def there(
    request: pytest.FixtureRequest, tmp_path: Path, site: Path, postgres: Postgres, redis_url: str
) -> There:
    url = f"file://{tmp_path}/objects"
    if request.param == "archive-sqlalchemy":
        engine = sqlalchemy.create_engine(postgres.url)
        with engine.begin() as connection:
            connection.execute(sqlalchemy.text("drop table if exists toril_archive"))
        engine.dispose()
        url = postgres.url
    store = request.param.removeprefix("archive-")
    (tmp_path / "toril.toml").write_text(
        f'[archive]\nstore = "{store}"\n[archive.options]\nurl = "{url}"\n'
    )
    (tmp_path / "app.py").write_text(APP)
    environ = {"PYTHONPATH": str(site), "TORIL_URL": redis_url, "TORIL_CONFIG": "toril.toml"}
    return There(tmp_path, environ)


def test_jobs_are_archived_then_removed_and_come_back(there: There, raw: redis.Redis) -> None:
    for number in range(5):
        add(raw, f"j{number}", "bad" if number == 3 else "welcome", {"n": number})
    there.toril("worker", "app:app", "--burst")
    assert raw.zcard("bull:mail:completed") == 4, "the finishing script is careful"
    there.toril("sweep", "mail")
    assert not raw.exists("bull:mail:completed", "bull:mail:failed", "bull:mail:j0")
    listed = there.documents("archive", "ls", "mail")
    assert sorted(job["id"] for job in listed) == [f"j{n}" for n in range(5)]
    bad = {job["id"]: job for job in listed}["j3"]
    assert (bad["reason"], bad["rule"], bad["outcome"]) == (
        "no such address",
        "queue: nothing",
        "failed",
    )
    there.toril("archive", "restore", "mail", "j2", "j3")
    assert raw.hget("bull:mail:j2", "returnvalue") == '{"to":{"n":2}}'
    assert raw.lrange("bull:mail:j2:logs", 0, -1) == ["sent {'n': 2}"]
    assert raw.zrange("bull:mail:failed", 0, -1) == ["j3"]
    there.toril("sweep", "mail")
    assert raw.exists("bull:mail:j2"), "it stays for a while"


def test_without_the_distribution_nothing_goes(there: There, raw: redis.Redis) -> None:
    add(raw, "j", "welcome", 1)
    bare = There(there.folder, {**there.environ, "PYTHONPATH": ""})
    bare.toril("worker", "app:app", "--burst", code=2)  # its configuration names a missing store
    bare = There(there.folder, {**bare.environ, "TORIL_CONFIG": ""})
    bare.toril("worker", "app:app", "--burst")
    bare.toril("sweep", "mail", code=None)  # it says which plugin is missing
    assert raw.zrange("bull:mail:completed", 0, -1) == ["j"], "the queue requires the archive"
    there.toril("sweep", "mail")
    assert not raw.exists("bull:mail:j")
    assert [job["id"] for job in there.documents("archive", "ls")] == ["j"]


def test_objects_in_memory(redis_url: str, site: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Only for the import: an App looks up what is installed once per process, here or elsewhere.
    with monkeypatch.context() as path:
        path.syspath_prepend(str(site))
        plugin = importlib.import_module("toril_archive_fsspec")

    async def run() -> None:
        clock, removed = ManualClock(), Removed()
        config = {"archive": {"store": "fsspec", "options": {"url": "memory://jobs"}}}
        plugins = [removed, plugin, "archive", "persistence", "cleanup"]
        async with App(redis_url, plugins=plugins, config=config, clock=clock) as app:
            here = Place(app, clock, removed)
            await here.queue.set(Retention(completed=Keep.nothing()))
            await here.queue.set(Requires("archive"))
            await here.finish("a", "b")
            await here.sweep()
            assert not await here.kept()
            archive = Archive.of(app)
            page = await archive.find(Wanted(queue="q"))
            assert sorted(job.id for job in page.jobs) == ["a", "b"]
            await archive.restore(page.jobs[0])
            assert await here.kept() == {page.jobs[0].id}

    asyncio.run(run())
    files = fsspec.filesystem("memory")
    assert len(files.find("jobs")) == 2
    files.store.clear()


@pytest.mark.parametrize("name", NAMES)
def test_their_own_tests_pass(name: str, site: Path, tmp_path: Path, postgres: Postgres) -> None:
    """On PostgreSQL and on SQLite, on a local file system and on one in memory."""
    command = [sys.executable, "-m", "pytest", "-q", "-c", os.devnull, f"--rootdir={tmp_path}"]
    command += ["-p", "no:cacheprovider", "-p", "no:asyncio", "--import-mode=importlib"]
    for url in (None, postgres.url) if name == "archive-sqlalchemy" else (None,):
        environ = {"PYTHONPATH": str(site), **({} if url is None else {"ARCHIVE_TEST_URL": url})}
        done = subprocess.run(
            [*command, str(EXAMPLES / name / "tests")],
            cwd=tmp_path,
            env={**os.environ, **environ},
            capture_output=True,
            text=True,
            check=False,
            timeout=100,
        )
        assert done.returncode == 0, done.stdout + done.stderr


def add(raw: redis.Redis, id: str, name: str, data: object) -> None:
    """A job as any producer writes it."""
    fields: Any = {"name": name, "data": json.dumps(data), "opts": '{"attempts":0}'}
    fields |= {"timestamp": 1, "delay": 0, "priority": 0}
    raw.hset(f"bull:mail:{id}", mapping=fields)
    raw.lpush("bull:mail:wait", id)
