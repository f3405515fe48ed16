from __future__ import annotations

import json

import pytest
import redis
from click.testing import CliRunner, Result

from toril import App, Flow
from toril.cli import main


def flows(url: str, *arguments: str) -> Result:
    environ = {"TORIL_URL": url, "TORIL_PLUGINS": ""}
    return CliRunner().invoke(main, ["flows", *arguments], env=environ)


@pytest.fixture
def book(redis_url: str) -> str:
    """A book with two chapters of two pages each; its server's URL."""
    chapters = [
        Flow(
            "parts",
            f"chapter {c}",
            id=f"c{c}",
            children=[Flow("pages", f"page {p}", id=f"p{c}.{p}") for p in (1, 2)],
        )
        for c in (1, 2)
    ]
    with App(redis_url, plugins=[]).sync as app:
        app.add_flow(Flow("books", "book", id="b", children=chapters))
    return redis_url


def test_show(book: str, raw: redis.Redis) -> None:
    table = flows(book, "show", "books", "b").stdout.splitlines()
    assert table[1].split() == ["book", "books", "b", "waiting-children"]
    assert sorted(line for line in table if line.startswith("    page 1")) == [
        f"    page 1   pages  p{c}.1  waiting" for c in (1, 2)
    ]
    raw.delete("bull:pages:p1.1")
    raw.lrem("bull:pages:wait", 1, "p1.1")
    shown = json.loads(flows(book, "show", "books", "b", "-o", "json").stdout)["jobs"]
    assert {job["id"]: (job["level"], job["parent"], job["state"]) for job in shown} == {
        "b": (0, None, "waiting-children"),
        "c1": (1, "books/b", "waiting-children"),
        "c2": (1, "books/b", "waiting-children"),
        "p1.1": (2, "parts/c1", "gone"),
        "p1.2": (2, "parts/c1", "waiting"),
        "p2.1": (2, "parts/c2", "waiting"),
        "p2.2": (2, "parts/c2", "waiting"),
    }


@pytest.mark.parametrize("option", ["--depth", "--width"])
def test_show_some(book: str, option: str) -> None:
    done = flows(book, "show", "books", "b", option, "1")
    assert len(done.stdout.splitlines()) == (2 if option == "--depth" else 4)
    assert "there is more" in done.stderr
    assert flows(book, "show", "books", "b", option, "0").exit_code == 2


def test_a_flow_that_is_not_there(book: str) -> None:
    for command in ("show", "prune", "unlink"):
        done = flows(book, command, "books", "nobody")
        assert (done.exit_code, "no job 'nobody'" in done.stderr) == (4, True)


def test_unlink(book: str, raw: redis.Redis) -> None:
    assert flows(book, "unlink", "pages", "p1.1").exit_code == 0
    assert raw.smembers("bull:parts:c1:dependencies") == {"bull:pages:p1.2"}
    again = flows(book, "unlink", "pages", "p1.1")
    assert (again.exit_code, "has no living parent" in again.stderr) == (5, True)
    raw.srem("bull:parts:c1:dependencies", "bull:pages:p1.2")
    ended = flows(book, "unlink", "pages", "p1.2")
    assert (ended.exit_code, "does not wait for it" in ended.stderr) == (5, True)


def test_prune(book: str, raw: redis.Redis) -> None:
    done = flows(book, "prune", "books", "b")
    assert (done.exit_code, done.stdout, done.stderr) == (0, "", "2 children removed\n")
    assert raw.lrange("bull:books:wait", 0, -1) == ["b"]
    assert raw.keys("bull:p*:*[0-9]") == []
