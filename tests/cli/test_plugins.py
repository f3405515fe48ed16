"""`toril plugins`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from tests.support.distributions import Site

from toril.cli import main
from toril.cli.exits import Exit

GOOD = """
    from toril.plugins import hookimpl

    @hookimpl
    def toril_jobs_saved(events):
        pass
"""
QUIET = {"TORIL_PLUGINS": None, "TORIL_PLUGINS_BLOCK": None, "TORIL_CONFIG": None}


def plugins(*arguments: str, **environ: str) -> Result:
    return CliRunner().invoke(main, ["plugins", *arguments], env={**QUIET, **environ})


def listed(done: Result) -> dict[str, dict[str, Any]]:
    document = json.loads(done.stdout)
    assert document["v"] == 1
    return {row["name"]: row for row in document["plugins"]}


def test_ls_shows_what_is_used_and_why_others_are_not(site: Site) -> None:
    site.add("acme-good", GOOD, version="2.1")
    site.add("acme-bad", "1 / 0")
    site.add("acme-off", GOOD)
    done = plugins("ls", "-o", "json", TORIL_PLUGINS_BLOCK="off")
    assert done.exit_code == 0
    rows = listed(done)
    assert rows["good"] == {
        "name": "good",
        "distribution": "acme-good",
        "version": "2.1",
        "status": "active",
        "hooks": ["toril_jobs_saved"],
        "origin": f"acme_good in {site.folder}",
        "error": None,
    }
    assert rows["bad"]["status"] == "broken"
    assert rows["bad"]["error"] == "ZeroDivisionError: division by zero"
    assert rows["off"]["status"] == "blocked"


def test_ls_for_people(site: Site) -> None:
    site.add("acme-good", GOOD)
    site.add("acme-bad", "1 / 0")
    done = plugins("ls")
    assert done.stdout.splitlines()[0].split() == [
        "name", "distribution", "version", "status", "hooks",
    ]  # fmt: skip
    assert done.stderr == "bad (acme-bad 1.0) is broken: ZeroDivisionError: division by zero\n"


def test_check_is_content(site: Site) -> None:
    site.add("acme-good", GOOD)
    site.add("acme-off", "1 / 0")
    done = plugins("check", TORIL_PLUGINS_BLOCK="off")
    assert done.exit_code == 0
    assert done.stderr == "all well: good 1.0, off 1.0 (blocked)\n"
    done = plugins("check", "-o", "json", TORIL_PLUGINS_BLOCK="off")
    assert done.stdout == '{"v": 1, "problems": []}\n'


def test_check_finds_problems(site: Site) -> None:
    site.add("acme-bad", "1 / 0")
    done = plugins("check")
    assert done.exit_code == Exit.FOUND_PROBLEM
    assert "ZeroDivisionError" in done.stdout


def test_check_finds_a_command_that_two_offer(site: Site) -> None:
    for name in ("one", "two"):
        site.add(f"acme-{name}", "x = 1", commands={"act": f"acme_{name}:x"})
    done = plugins("check", "-o", "ids")
    assert (done.exit_code, done.stdout) == (Exit.FOUND_PROBLEM, "act\n")


@pytest.mark.parametrize(("block", "code"), [("", 0), ("archive", Exit.FOUND_PROBLEM)])
def test_check_looks_at_what_is_required(block: str, code: int, site: Site, tmp_path: Path) -> None:
    site.add("acme-archive", GOOD)
    config = tmp_path / "toril.toml"
    config.write_text('required = ["archive"]\n')
    environ = {"TORIL_CONFIG": str(config), "TORIL_PLUGINS_BLOCK": block}
    assert plugins("check", **environ).exit_code == code
    assert plugins("ls", **environ).exit_code == 0


def test_a_configuration_that_cannot_work(site: Site, tmp_path: Path) -> None:
    config = tmp_path / "toril.toml"
    config.write_text("[archive]\n")
    done = plugins("ls", TORIL_CONFIG=str(config))
    assert done.exit_code == Exit.USAGE
    assert "no plugin named 'archive' is installed" in done.stderr
    config.write_text('required = ["archive"]\n')
    done = plugins("check", TORIL_CONFIG=str(config))
    assert done.exit_code == Exit.USAGE
    assert "requires 'archive', not installed here" in done.stderr


CONFIGURED = """
    from dataclasses import dataclass
    from toril.plugins import duration_text, hookimpl, milliseconds

    @dataclass(frozen=True)
    class Options:
        every: str = "1h"
        size: int = 1

        def __post_init__(self):
            milliseconds(self.every)

    @hookimpl
    def toril_register(registry):
        registry.config(Options)

    @hookimpl
    def toril_start(context):
        raise SystemExit("a check starts nothing")
"""


@pytest.mark.parametrize(
    ("table", "said"),
    [
        ("evry = '1h'", "there is no option 'evry'; did you mean 'every'?"),
        ("size = 'large'", "Expected `int`, got `str`"),
        ("every = 'often'", "'often'"),
    ],
)
def test_check_finds_wrong_options_without_starting_anything(
    site: Site, tmp_path: Path, table: str, said: str
) -> None:
    site.add("acme-copies", CONFIGURED)
    config = tmp_path / "toril.toml"
    config.write_text(f"[copies]\n{table}\n")
    done = plugins("check", "-o", "json", TORIL_CONFIG=str(config))
    assert done.exit_code == Exit.FOUND_PROBLEM
    (problem,) = json.loads(done.stdout)["problems"]
    assert (problem["name"], problem["status"]) == ("copies", "misconfigured")
    assert said in problem["error"]
    config.write_text("[copies]\nevery = '2h'\n")
    assert plugins("check", TORIL_CONFIG=str(config)).exit_code == 0
