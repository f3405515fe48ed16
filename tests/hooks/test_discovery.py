"""Finding plugins, each time in a fresh interpreter: installed ones, and ones only planted."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from tests.support.distributions import Site, wheel

import toril
import toril_lua

PLUGIN = """
    from toril.plugins import hookimpl

    @hookimpl
    def toril_jobs_saved(events):
        pass
"""
LIST = (
    "from toril.hooks.loader import load_plugins;"
    "print({i.name: i.status for i in load_plugins(environ={}).infos if i.name == 'evil'})"
)
ROOTS = [str(Path(str(package.__file__)).parents[1]) for package in (toril, toril_lua)]


def python(
    *arguments: str, cwd: Path, path: tuple[str, ...] = ()
) -> subprocess.CompletedProcess[str]:
    environ = {key: value for key, value in os.environ.items() if not key.startswith("TORIL_")}
    environ["PYTHONPATH"] = os.pathsep.join((*ROOTS, *path))
    return subprocess.run(
        [sys.executable, *arguments],
        check=False,
        cwd=cwd,
        env=environ,
        capture_output=True,
        text=True,
    )


def test_importing_toril_scans_nothing_and_imports_no_plugin(tmp_path: Path) -> None:
    code = (
        "import sys, toril, toril.plugins;"
        "print([m for m in sys.modules if m.startswith('importlib_metadata')"
        " or m.startswith('toril_plugins')])"
    )
    done = python("-c", code, cwd=tmp_path)
    assert (done.stdout, done.stderr) == ("[]\n", "")


def test_the_environment_is_scanned_once_per_process(tmp_path: Path) -> None:
    code = (
        "import importlib_metadata as m; n = []; real = m.entry_points\n"
        "m.entry_points = lambda **k: n.append(1) or real(**k)\n"
        "from toril.hooks import discovery\n"
        "for group in ('toril.plugins', 'toril.commands') * 3: discovery.offers(group)\n"
        "print(len(n))"
    )
    assert python("-P", "-c", code, cwd=tmp_path).stdout == "1\n"


def test_a_plugin_installed_by_pip_is_found(tmp_path: Path) -> None:
    made = wheel(tmp_path, "acme-evil", PLUGIN, "2.5")
    target = tmp_path / "installed"
    subprocess.run(
        [sys.executable, "-m", "pip", "install", "--quiet", "--no-index", "--no-deps",
         "--disable-pip-version-check", "--target", str(target), str(made)],
        check=True,
    )  # fmt: skip
    done = python("-c", LIST, cwd=tmp_path, path=(str(target),))
    assert (done.stdout, done.stderr) == ("{'evil': 'active'}\n", "")


@pytest.mark.parametrize("how", ["-c", "-m"])
def test_metadata_planted_in_the_working_directory_is_ignored(how: str, tmp_path: Path) -> None:
    Site(tmp_path).add("acme-evil", "raise AssertionError('imported')")
    (tmp_path / "program.py").write_text(LIST)
    done = python(how, LIST if how == "-c" else "program", cwd=tmp_path)
    assert done.stdout == "{}\n"
    assert "acme-evil offers plugins or commands, but is ignored" in done.stderr


def test_a_directory_that_is_on_the_path_in_its_own_right_counts(tmp_path: Path) -> None:
    Site(tmp_path).add("acme-evil", PLUGIN)
    done = python("-c", LIST, cwd=tmp_path, path=(str(tmp_path),))
    assert (done.stdout, done.stderr) == ("{'evil': 'active'}\n", "")


def test_a_distribution_that_is_installed_too_is_no_plant(tmp_path: Path) -> None:
    here, elsewhere = tmp_path / "here", tmp_path / "elsewhere"
    Site(here).add("acme-evil", PLUGIN)
    Site(elsewhere).add("acme-evil", PLUGIN)
    done = python("-c", LIST, cwd=here, path=(str(elsewhere),))
    assert (done.stdout, done.stderr) == ("{'evil': 'active'}\n", "")
