"""The template of a distribution: rendered, checked, built, installed and tested."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

import pytest
from tests.docs.blocks import DOCS, ROOT

TEMPLATE = DOCS / "plugins" / "template"


def run(*command: object, cwd: Path, code: int = 0, **environ: str) -> str:
    """Run a command; what it said on both streams."""
    done = subprocess.run(
        [str(each) for each in command],
        cwd=cwd,
        env={**os.environ, **environ},
        capture_output=True,
        text=True,
        check=False,
        timeout=110,
    )
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout + done.stderr


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The template, rendered for a name of two words."""
    folder = tmp_path_factory.mktemp("template") / "acme-keep-by-name"
    answers = ["--data", "name=acme-keep-by-name"]
    copy = [sys.executable, "-m", "copier", "copy", "--defaults", "--quiet"]
    run(*copy, *answers, TEMPLATE, folder, cwd=folder.parent)
    return folder


class Environment:
    """A fresh environment, in which what is installed here is there, but for the plugin."""

    def __init__(self, folder: Path) -> None:
        venv.create(folder)
        self.python = folder / "bin" / "python"
        site = Path(run(self.python, "-c", "import site; print(site.getsitepackages()[0])",
                        cwd=folder).strip())  # fmt: skip
        here = [sysconfig.get_path("purelib"), *(str(ROOT / each) for each in PACKAGES)]
        (site / "here.pth").write_text("\n".join(here) + "\n")

    def install(self, wheel: Path) -> None:
        pip = [sys.executable, "-m", "pip", "--python", self.python, "install", "--quiet"]
        run(*pip, "--no-deps", "--no-index", wheel, cwd=wheel.parent)

    def run(self, *arguments: object, cwd: Path, code: int = 0, **environ: str) -> str:
        return run(self.python, "-P", "-m", *arguments, cwd=cwd, code=code, **environ)


PACKAGES = ("core", "plugins", "lua")


@pytest.fixture(scope="module")
def installed(project: Path, tmp_path_factory: pytest.TempPathFactory) -> Environment:
    """An environment in which the rendered distribution is installed, from a wheel."""
    dist = tmp_path_factory.mktemp("dist")
    build = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation"]
    run(*build, "--no-index", "--wheel-dir", dist, project, cwd=dist)
    (wheel,) = dist.glob("*.whl")
    assert wheel.name == "acme_keep_by_name-0.1.0-py3-none-any.whl"
    environment = Environment(tmp_path_factory.mktemp("environment"))
    environment.install(wheel)
    return environment


def test_it_is_rendered_whole(project: Path) -> None:
    # Other tests leave caches of their tools there.
    rendered = [
        path
        for path in project.rglob("*")
        if path.is_file()
        and not re.search(r"/(\.|__pycache__|dist/|build/)", f"/{path.relative_to(project)}")
    ]
    files = {str(path.relative_to(project)) for path in rendered}
    assert files == {
        "README.md",
        "acme_keep_by_name/__init__.py",
        "acme_keep_by_name/py.typed",
        "pyproject.toml",
        "tests/test_acme_keep_by_name.py",
    }
    for path in rendered:
        assert not re.search(r"\{[{%]", path.read_text()), path


def test_its_code_is_clean_and_typed(project: Path) -> None:
    source = ["acme_keep_by_name", "tests"]
    ruff = [sys.executable, "-m", "ruff"]
    rules = ["--select", "E,F,I,UP,B,RUF", "--line-length", "100", "--isolated"]
    run(*ruff, "check", *rules, *source, cwd=project)
    run(*ruff, "format", "--isolated", "--line-length", "100", "--check", *source, cwd=project)
    path = ":".join(str(ROOT / each) for each in PACKAGES)
    run(sys.executable, "-m", "mypy", "--strict", *source, cwd=project, MYPYPATH=path)


def test_its_tests_pass_where_it_is_installed(project: Path, installed: Environment) -> None:
    said = installed.run("pytest", "-q", "-p", "no:cacheprovider", cwd=project)
    passed = re.search(r"(\d+) passed in", said)
    assert passed, said
    assert int(passed[1]) >= 10, said
    assert "failed" not in said


def test_toril_finds_it_and_its_options(
    project: Path, installed: Environment, tmp_path: Path
) -> None:
    assert re.search(
        r"keep-by-name +acme-keep-by-name +0\.1\.0 +active .*toril_plan_retention",
        installed.run("toril", "plugins", "ls", cwd=tmp_path, COLUMNS="200"),
    )
    config = tmp_path / "toril.toml"
    config.write_text('[keep-by-name.rules]\ninvoice = "3650d"\n')
    installed.run("toril", "plugins", "check", cwd=tmp_path, TORIL_CONFIG=str(config))
    config.write_text('[keep-by-name.rules]\ninvoice = "for a while"\n')
    said = installed.run(
        "toril", "plugins", "check", cwd=tmp_path, code=6, TORIL_CONFIG=str(config)
    )
    assert "for a while" in said
