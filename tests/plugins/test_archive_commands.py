"""`toril archive`, as a person uses it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import redis
from click.testing import CliRunner, Result
from tests.plugins.test_archive import archiving

from toril.cli import main
from toril_plugins import Keep, Retention

Run = Callable[..., Result]


@pytest.fixture(params=["--sqlite", "--jsonl"])
def run(request: pytest.FixtureRequest, redis_url: str, tmp_path: Path) -> Run:
    """`toril archive …` on an archive with the jobs a, b and f of queue q."""
    table = {request.param[2:]: str(tmp_path / "archive")}

    async def fill() -> None:
        async with archiving(redis_url, table) as here:
            await here.queue.set(Retention(completed=Keep.nothing(), failed=Keep.nothing()))
            await here.finish("a", "b")
            await here.finish("f", name="fail")
            await here.sweep()
            assert not await here.kept()

    asyncio.run(fill())

    def invoke(command: str, *arguments: str, input: str = "") -> Result:
        place = [request.param, str(tmp_path / "archive")]
        return CliRunner().invoke(
            main, ["archive", command, *arguments, *place], input=input, env={"TORIL_URL": ""}
        )

    return invoke


def rows(result: Result) -> list[dict[str, Any]]:
    assert result.exit_code == 0, result.output
    return [json.loads(line) for line in result.stdout.splitlines()]


def ids(result: Result) -> Sequence[str]:
    assert result.exit_code == 0, result.output
    return result.stdout.split()


def test_ls_filters_and_pages(run: Run) -> None:
    assert sorted(ids(run("ls", "-o", "ids"))) == ["a", "b", "f"]
    assert ids(run("ls", "q", "--outcome", "failed", "-o", "ids")) == ["f"]
    assert ids(run("ls", "--name", "fail", "-o", "ids")) == ["f"]
    assert ids(run("ls", "elsewhere", "-o", "ids")) == []
    assert len(ids(run("ls", "--since", "1d", "-o", "ids"))) == 3
    assert ids(run("ls", "--until", "1d", "-o", "ids")) == []
    assert len(ids(run("ls", "--limit", "0", "-o", "ids"))) == 3
    first = run("ls", "--limit", "2", "-o", "ids")
    place = first.stderr.split()[-1]
    second = run("ls", "--limit", "2", "--after", place, "-o", "ids")
    assert sorted([*ids(first), *ids(second)]) == ["a", "b", "f"]
    assert "there are more" not in second.stderr
    assert run("ls", "--after", "?").exit_code == 2
    assert run("ls", "--since", "?").exit_code == 2
    table = run("ls").stdout.splitlines()
    assert table[0].split() == ["id", "queue", "name", "outcome", "finished", "archived", "rule"]


def test_show(run: Run) -> None:
    (job,) = rows(run("show", "q", "f", "-o", "ndjson"))
    assert (job["reason"], job["rule"], job["data"]) == ("as asked", "queue: nothing", {"c": "f"})
    (record,) = rows(run("show", "q", "f", "--record"))
    assert (record["v"], record["fields"]["failedReason"]) == (1, "as asked")
    assert run("show", "q", "f", "--finished-on", str(job["finished_on"])).exit_code == 0
    missing = run("show", "q", "f", "--finished-on", "5")
    assert (missing.exit_code, "no job 'f'" in missing.stderr) == (4, True)


def test_restore(run: Run, raw: redis.Redis, redis_url: str) -> None:
    server = ("--url", redis_url)
    done = run("restore", "q", "a", "-", *server, "--stay", "1d", input="b\n\n")
    assert done.exit_code == 0, done.output
    assert raw.zcard("bull:q:completed") == 2
    again = run("restore", "q", "a", "f", *server)
    assert (again.exit_code, "'a' exists" in again.stderr) == (5, True)
    assert raw.zrange("bull:q:failed", 0, -1) == ["f"], "the others are put back"
    assert run("restore", "q", "nobody", *server).exit_code == 4
    assert run("restore", "q", "a", "--stay", "soon", *server).exit_code == 2


def test_requeue(run: Run, raw: redis.Redis, redis_url: str) -> None:
    server = ("--url", redis_url)
    (new,) = ids(run("requeue", "q", "a", "-o", "ids", *server))
    assert raw.hget(f"bull:q:{new}", "data") == '{"c":"a"}'
    (row,) = rows(run("requeue", "q", "b", "--same-id", "-o", "ndjson", *server))
    assert row == {"id": "b", "from": "b"}
    refused = run("requeue", "q", "b", "--same-id", *server)
    assert (refused.exit_code, "exists" in refused.stderr) == (5, True)


def test_without_an_archive_it_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TORIL_CONFIG", raising=False)
    result = CliRunner().invoke(main, ["archive", "ls"])
    assert result.exit_code == 2
    assert "--sqlite" in result.output
