"""The command line on a cluster: queues with tags of their own, on different servers."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from tests.support.topology import Cluster

from toril import ActiveJob, App, Every, Flow, NewJob
from toril.cli import main

PLAIN = ("{a}", "{b}")
"""On different servers; a test makes sure."""
QUEUES = (*PLAIN, "{c}steps", "{c}top")
Toril = Callable[..., Result]


async def work(job: ActiveJob) -> str:
    if job.name == "fail":
        raise ValueError("broken")
    return "done"


@pytest.fixture
async def toril(nodes: Cluster, tmp_path: Path) -> Toril:
    """`toril …` on a cluster whose queues hold jobs of all kinds; asserts the exit code."""
    async with App(nodes.url) as app:
        for name in PLAIN:
            queue = app.queue(name)
            jobs = [NewJob("send", {"n": n}, id=f"j{n}") for n in range(3)]
            await queue.add_many([*jobs, NewJob("fail", id="bad")])
            await app.worker(name, work, concurrency=10).run(burst=True)
            await queue.add("later", {"n": 9}, id="late", delay="1h")
            await queue.add("next", id="next")
        await app.queue("{a}").schedule("poll", Every("5m"), "poll")
        steps = [Flow("{c}steps", "step", id=f"s{n}") for n in range(2)]
        await app.add_flow(Flow("{c}top", "order", id="o1", children=steps))
    config = tmp_path / "toril.toml"
    config.write_text(f'[archive]\nsqlite = "{tmp_path}/archive"\n')
    environ = {"TORIL_URL": nodes.url, "TORIL_CONFIG": str(config)}

    def invoke(*arguments: str, code: int = 0, input: str = "") -> Result:
        done = CliRunner().invoke(main, arguments, env=environ, input=input)
        assert done.exit_code == code, (arguments, done.output, done.exception)
        return done

    return invoke


def document(done: Result) -> Any:
    return json.loads(done.stdout)


def test_queues(toril: Toril, nodes: Cluster) -> None:
    assert len({nodes.owner(name) for name in QUEUES}) == 3
    assert toril("queues", "ls", "-o", "ids").stdout.split() == list(QUEUES)
    rows = document(toril("queues", "ls", "-o", "json"))["queues"]
    assert [row["completed"] for row in rows] == [3, 3, 0, 0]
    for name in PLAIN:
        shown = document(toril("queues", "show", name, "-o", "json"))["queue"]
        assert (shown["failed"], shown["waiting"]) == (1, 1 + (name == "{a}"))
        toril("queues", "pause", name)
        toril("queues", "resume", name)
        toril("queues", "limits", name, "--concurrency", "5", "--rate", "10/1s")
        toril("queues", "event-values", name, "off")
        toril("queues", "drain", name, "--yes")
    told = toril("queues", "prometheus").stdout
    assert all(f'queue="{name}"' in told for name in QUEUES)
    toril("queues", "obliterate", "{b}", "--yes", "--force")
    assert "{b}" not in toril("queues", "ls", "-o", "ids").stdout.split()
    toril("queues", "show", "{m}", code=4)
    assert "has no hash tag" in toril("queues", "show", "mail", code=2).stderr


def test_jobs_and_workers(toril: Toril) -> None:
    for name in PLAIN:
        listed = toril("jobs", "ls", name, "--state", "completed", "-o", "ids").stdout.split()
        assert sorted(listed) == ["j0", "j1", "j2"]
        assert document(toril("jobs", "show", name, "j0", "-o", "json"))["job"]["result"] == "done"
        toril("jobs", "explain", name, "bad")
        toril("jobs", "retry", name, "bad")
        toril("jobs", "change", name, "late", "--delay", "5m", "--data", '{"n": 1}')
        toril("jobs", "promote", name, "late")
        toril("jobs", "clear-logs", name, "j0")
        toril("jobs", "erase", name, "j1")
        toril("jobs", "remove", name, "j2")
        toril("jobs", "show", name, "j2", code=4)
    assert "no workers" in toril("workers", "ls").output


def test_schedules_and_flows(toril: Toril) -> None:
    assert "poll" in toril("schedules", "ls", "{a}").stdout
    for command in ("show", "pause", "resume", "run", "rm"):
        toril("schedules", command, "{a}", "poll")
    assert len(document(toril("flows", "show", "{c}top", "o1", "-o", "json"))["jobs"]) == 3
    toril("flows", "unlink", "{c}steps", "s0")
    toril("flows", "prune", "{c}top", "o1")
    left = document(toril("flows", "show", "{c}top", "o1", "-o", "json"))["jobs"]
    assert [job["id"] for job in left] == ["o1"]


def test_retention(toril: Toril, tmp_path: Path) -> None:
    for name in PLAIN:
        toril("retention", "set", name, "--completed", "2", "--failed", "1h")
        toril("retention", "ceiling", name, "--completed", "30d")
        toril("retention", "require", name, "cleanup")
        toril("retention", "foreign", name, "isolate")
        toril("holds", "add", name, "--id", "j0", "--why", "audit")
        plan = toril("retention", "plan", name, "--set", "completed=1", "-o", "json").stdout
        (tmp_path / "plan.json").write_text(plan)
        toril("retention", "apply", str(tmp_path / "plan.json"))
        toril("sweep", name)
        kept = toril("jobs", "ls", name, "--state", "completed", "-o", "ids").stdout.split()
        assert len(kept) == 2
        assert "j0" in kept
        assert "completed" in toril("retention", "show", name).stdout
        assert "hold" in toril("retention", "journal", name).stdout
        toril("retention", "unset", name)
    assert toril("holds", "ls", "-o", "ids").stdout.split() != []
    assert len(document(toril("holds", "ls", "-o", "json"))["holds"]) == 2
    for name in PLAIN:
        toril("holds", "release", name, "--id", "j0")
    assert "no findings" in toril("audit").output


def test_archive(toril: Toril, tmp_path: Path) -> None:
    place = ("--sqlite", str(tmp_path / "archive"))
    for name in PLAIN:
        toril("retention", "set", name, "--completed", "nothing")
        toril("sweep", name)
        assert len(toril("archive", "ls", name, "-o", "ids", *place).stdout.split()) == 3
        toril("archive", "show", name, "j0", *place)
        toril("archive", "restore", name, "j0", *place)
        assert toril("jobs", "ls", name, "--state", "completed", "-o", "ids").stdout == "j0\n"
