"""Somebody else's distribution in its own environment: no import, only an entry point."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import redis
from tests.support.distributions import wheel

APP = """
    from toril import ActiveJob, App
    from toril_plugins import Retention

    app = App()


    async def echo(job: ActiveJob) -> object:
        return job.data


    app.worker("q", echo, Retention(completed=1000))
"""

STRATEGY = """
    from toril import hookimpl
    from toril_plugins import Keep


    @hookimpl
    def toril_plan_retention(job):
        return Keep.nothing() if job.get("secret", bool) else None
"""

HOSTILE: Mapping[str, str] = {
    "acme-raise": """
        from toril import hookimpl

        @hookimpl
        def toril_plan_finish(job):
            raise RuntimeError("raised on purpose")

        @hookimpl
        def toril_jobs_completed(events):
            raise SystemError("raised on purpose")
    """,
    "acme-hang": """
        import asyncio
        from toril import hookimpl

        @hookimpl
        async def toril_worker_stopped(worker):
            await asyncio.Event().wait()
    """,
    "acme-signature": """
        from toril import hookimpl

        @hookimpl
        def toril_jobs_completed(happenings):
            pass
    """,
    "acme-typo": """
        from toril import hookimpl

        @hookimpl
        def toril_jobs_complete(events):
            pass
    """,
    "acme-twin": """
        from toril import hookimpl
        from toril.plugins import Setting

        class Retention(Setting):
            name = "retention"

        @hookimpl
        def toril_register(registry):
            registry.setting(Retention)
    """,
    "acme-import": "import nothing_of_that_name\n",
    "acme-start": """
        from toril import hookimpl

        @hookimpl
        async def toril_start(context):
            raise OSError("no database today")
    """,
    "acme-lua": """
        from toril import hookimpl

        @hookimpl
        def toril_register(registry):
            registry.lua("finished_batch", "error('raised in Lua on purpose')")
            registry.lua("saved", "redis.call('INCR', ctx.q .. ':meta')")
    """,
    "acme-syntax": """
        from toril import hookimpl

        @hookimpl
        def toril_register(registry):
            registry.lua("finished", "if ctx.id then")
            registry.lua("saved", "end and error('outside') or function(ctx)")
            registry.script("own", "return end")
    """,
}


class Environment:
    """A folder of installed distributions, and commands that run with it."""

    def __init__(self, folder: Path, url: str) -> None:
        self.site = folder / "site"
        self.folder = folder
        self.url = url
        (folder / "app.py").write_text("\n".join(line[4:] for line in APP.splitlines()))

    def install(self, distribution: str, source: str) -> None:
        """Install a distribution as its users would."""
        built = wheel(self.folder, distribution, source)
        command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index"]
        subprocess.run([*command, "--target", self.site, built], check=True)

    def run(self, *arguments: str, **environ: str) -> subprocess.CompletedProcess[str]:
        """`toril` with these arguments."""
        return subprocess.run(
            [sys.executable, "-P", "-m", "toril", *arguments],
            cwd=self.folder,
            env={**os.environ, "PYTHONPATH": str(self.site), "TORIL_URL": self.url, **environ},
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )

    def work(self, **environ: str) -> subprocess.CompletedProcess[str]:
        """A worker that never heard of any plugin runs what waits."""
        done = self.run("worker", "app:app", "--burst", **environ)
        assert done.returncode == 0, done.stderr
        return done


@pytest.fixture
def there(tmp_path: Path, redis_url: str) -> Environment:
    return Environment(tmp_path, redis_url)


def add(raw: redis.Redis, **jobs: object) -> None:
    """Jobs as any producer writes them."""
    for job_id, data in jobs.items():
        fields: Any = {"name": "x", "data": json.dumps(data), "opts": '{"attempts":0}'}
        raw.hset(f"bull:q:{job_id}", mapping={**fields, "timestamp": 1, "delay": 0, "priority": 0})
        raw.lpush("bull:q:wait", job_id)


def test_an_entry_point_replaces_the_strategy(there: Environment, raw: redis.Redis) -> None:
    there.install("acme-secrets", STRATEGY)
    add(raw, a={"secret": True}, b={"secret": False})
    there.work()
    assert raw.zrange("bull:q:completed", 0, -1) == ["b"]
    assert not raw.exists("bull:q:a")


def test_with_the_defaults_blocked_jobs_stay_for_ever(there: Environment, raw: redis.Redis) -> None:
    there.install("acme-secrets", STRATEGY)
    add(raw, a={"secret": True})
    (there.folder / "app.py").write_text(
        (there.folder / "app.py").read_text().replace(", Retention(completed=1000)", "")
    )
    there.work(TORIL_PLUGINS_BLOCK="cleanup,persistence")
    assert raw.zrange("bull:q:completed", 0, -1) == ["a"]
    listed = json.loads(there.run("plugins", "ls", "-o", "json").stdout)["plugins"]
    assert {each["name"]: each["status"] for each in listed}["secrets"] == "active"
    blocked = there.run("plugins", "ls", "-o", "json", TORIL_PLUGINS_BLOCK="cleanup").stdout
    status = {each["name"]: each for each in json.loads(blocked)["plugins"]}
    assert status["secrets"]["status"] == "waiting", "it waits for the plugin whose hook it has"


@pytest.mark.parametrize("distribution", HOSTILE)
def test_a_hostile_plugin_stops_no_worker_and_harms_no_job(
    there: Environment, raw: redis.Redis, distribution: str
) -> None:
    there.install(distribution, HOSTILE[distribution])
    add(raw, a=1, b=2, c=3)
    done = there.work()
    assert set(raw.zrange("bull:q:completed", 0, -1)) == {"a", "b", "c"}
    assert raw.llen("bull:q:active") == 0
    assert [raw.hget(f"bull:q:{each}", "atm") for each in "abc"] == ["1", "1", "1"]
    name = distribution.removeprefix("acme-")
    assert name in done.stderr, "the log names the plugin"
    if name in ("signature", "typo", "twin", "import"):
        check = there.run("plugins", "check")
        assert (check.returncode, name in check.stdout) == (6, True)


def test_a_plugin_that_is_required_and_broken_stops_the_worker(
    there: Environment, raw: redis.Redis
) -> None:
    there.install("acme-start", HOSTILE["acme-start"])
    (there.folder / "toril.toml").write_text('required = ["start"]\n')
    add(raw, a=1)
    done = there.run("worker", "app:app", "--burst", TORIL_CONFIG="toril.toml")
    assert done.returncode == 2
    assert "no database today" in done.stderr
    assert raw.lrange("bull:q:wait", 0, -1) == ["a"]
