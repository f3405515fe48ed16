"""What the repository holds: where things lie, and what must not be written anywhere in it."""

from __future__ import annotations

import re
import subprocess
import tomllib
from pathlib import Path

import pytest

import toril

ROOT = Path(__file__).resolve().parents[2]

TOP_LEVEL = {
    ".ci",
    ".editorconfig",
    ".gitattributes",
    ".gitignore",
    ".luacheckrc",
    ".mkdocs.yml",
    "CHANGELOG.md",
    "CONTRIBUTING.md",
    "LICENSE",
    "README.md",
    "SECURITY.md",
    "core",
    "docs",
    "lua",
    "plugins",
    "pyproject.toml",
    "tests",
}

PACKAGES = {"toril": "core", "toril_plugins": "plugins", "toril_lua": "lua"}

# Where packages come from is the reader's configuration. Written so that they do not match
# themselves.
REGISTRY_HOST = re.compile(
    r"(?:pypi|npmjs|debian|ubuntu|yarnpkg|pythonhosted|crates|rubygems)[.](?:org|com|io|net)",
    re.IGNORECASE,
)
MACHINE_PATH = re.compile(
    r"(?<![\w.~)}\]%*-])/(?:work|root|tmp|home|Users)(?=/|[^\w/]|$)", re.MULTILINE
)


def tracked() -> list[Path]:
    if not (ROOT / ".git").exists():
        pytest.skip("not a git checkout")
    listed = subprocess.run(
        ["git", "ls-files", "-z"], cwd=ROOT, check=True, capture_output=True, text=True
    )
    return [Path(name) for name in listed.stdout.split("\0") if name]


def lines_matching(pattern: re.Pattern[str], files: list[Path]) -> list[str]:
    found: list[str] = []
    for name in files:
        path = ROOT / name
        if not path.is_file() or path.is_symlink():
            continue
        content = path.read_bytes()
        if b"\0" in content:
            continue
        for number, line in enumerate(content.decode().splitlines(), 1):
            if pattern.search(line):
                found.append(f"{name}:{number}: {line.strip()[:100]}")
    return found


def test_top_level_is_kept_clean() -> None:
    assert {name.parts[0] for name in tracked()} <= TOP_LEVEL


def test_nothing_generated_is_tracked() -> None:
    generated = {"__pycache__", ".venv", ".node", "node_modules", "dist", "build"}
    assert [name for name in tracked() if generated & set(name.parts)] == []


@pytest.mark.parametrize(("package", "folder"), PACKAGES.items())
def test_package_is_typed(package: str, folder: str) -> None:
    assert (ROOT / folder / package / "__init__.py").is_file()
    assert (ROOT / folder / package / "py.typed").is_file()


def test_no_registry_is_named() -> None:
    assert lines_matching(REGISTRY_HOST, tracked()) == []


def test_no_machine_path_is_named() -> None:
    assert lines_matching(MACHINE_PATH, tracked()) == []


@pytest.mark.parametrize("text", ["in /" + "tmp", '"/' + 'root/x"', "(/" + "work/main)"])
def test_machine_paths_are_recognised(text: str) -> None:
    assert MACHINE_PATH.search(text)


@pytest.mark.parametrize("text", ["a/tmp", "example.org/home", "/tmpl", "~/work", "{root}/tmp"])
def test_other_paths_are_left_alone(text: str) -> None:
    assert not MACHINE_PATH.search(text)


def test_changelog_has_a_section_for_this_version() -> None:
    release, _, development = toril.__version__.partition(".dev")
    section = "Unreleased" if development else release
    headings = re.findall(r"^## \[([^]]+)\]", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert section in headings


def test_core_has_no_word_of_how_long_jobs_are_kept() -> None:
    files = [
        path.relative_to(ROOT)
        for path in (ROOT / "core").rglob("*")
        if path.is_file() and path.suffix != ".pyc"
    ]
    assert files
    assert lines_matching(re.compile(r"retention|removeOn", re.IGNORECASE), files) == []


def test_dependencies_are_ranges() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"].values()
    requirements = [*project["dependencies"], *(one for extra in extras for one in extra)]
    assert [one for one in requirements if "==" in one] == []
    bounded = [one for one in requirements if ">=" in one or one.startswith("toril[")]
    assert bounded == requirements
