"""The documentation speaks of everything that is public, and of nothing else."""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import click
import pytest

import toril
import toril.errors
import toril.plugins
import toril_lua
from tests.docs.blocks import DOCS, README, ROOT, blocks, pages
from toril.cli import main as command_line
from toril.hooks import hookspecs
from toril_plugins.retention import hookspecs as retention_hookspecs

REFERENCE = DOCS / "reference"
LINK = re.compile(r"(?<!!)\[[^\]]*\]\(([^)\s]+)\)")
HEADING = re.compile(r"^#+ (.+?)\s*$", re.MULTILINE)


def described(page: str) -> set[str]:
    """What a page takes from docstrings."""
    return set(re.findall(r"^::: (\S+)", (REFERENCE / page).read_text(), re.MULTILINE))


def hooks(module: ModuleType) -> set[str]:
    return {f"{module.__name__}.{name}" for name in vars(module) if name.startswith("toril_")}


def prose(page: Path) -> str:
    """A page without its blocks."""
    lines = page.read_text().splitlines()
    for block in blocks(page):
        end = block.line + block.text.count("\n") + 1
        lines[block.line - 1 : end] = [""] * (end - block.line + 1)
    return "\n".join(lines)


def anchors(page: Path) -> set[str]:
    titles = HEADING.findall(prose(page))
    return {re.sub(r"[^\w\- ]", "", title.lower()).strip().replace(" ", "-") for title in titles}


def test_every_hook_has_its_place() -> None:
    assert described("hooks.md") == hooks(hookspecs) | hooks(retention_hookspecs)


def test_every_public_name_has_its_place() -> None:
    errors = {name for name in vars(toril.errors) if not name.startswith("_")}
    assert {f"toril.{name}" for name in toril.__all__ if name not in errors} <= described("api.md")


def test_every_name_for_plugin_authors_has_its_place() -> None:
    """Those that are not described elsewhere stand on the page by name."""
    text = (REFERENCE / "plugins.md").read_text()
    missing = [
        name
        for name in toril.plugins.__all__
        if f"`{name}`" not in text and not re.search(rf"^::: \S+\.{name}$", text, re.MULTILINE)
    ]
    assert missing == []


def load_docs_hook() -> ModuleType:
    spec = importlib.util.spec_from_file_location("docs_scripts", ROOT / ".ci/docs_scripts.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_every_script_stands_in_the_reference() -> None:
    docs_scripts = load_docs_hook()
    page = docs_scripts.on_page_markdown((REFERENCE / "scripts.md").read_text())
    assert set(re.findall(r"^## (\w+)$", page, re.MULTILINE)) == {*toril_lua.names(), "plugin"}
    for name in toril_lua.names():
        assert toril_lua.header(name).purpose in page


def commands(command: click.Command, path: str) -> Iterator[tuple[str, click.Command]]:
    """A command and all below it that are not groups."""
    if isinstance(command, click.Group):
        context = click.Context(command)
        for name in command.list_commands(context):
            found = command.get_command(context, name)
            assert found is not None, name
            if not found.hidden and name not in ALIASES:
                yield from commands(found, f"{path} {name}")
    else:
        yield path, command


ALIASES = {"list"}


def sections() -> dict[str, str]:
    """The sections of the page about the command line, by heading."""
    parts = re.split(r"^#{2,3} (.+)$", (DOCS / "cli.md").read_text(), flags=re.MULTILINE)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


def test_every_command_and_no_other_has_its_section() -> None:
    documented = {title.strip("`") for title in sections() if title.startswith("`toril ")}
    assert documented == {path for path, _ in commands(command_line, "toril")}


def test_every_option_of_every_command_is_documented() -> None:
    documented = sections()
    for path, command in commands(command_line, "toril"):
        section = documented[f"`{path}`"]
        options = {
            option
            for parameter in command.params
            if isinstance(parameter, click.Option) and not parameter.hidden
            for option in (*parameter.opts, *parameter.secondary_opts)
            if option.startswith("--")
        }
        named = set(re.findall(r"^\| (?:`-\w`, )?`(--[\w-]+)", section, re.MULTILINE))
        assert named == options - COMMON, path


COMMON = {"--help", "--output", "--prefix", "--url"}
"""Documented once, for all commands."""


@pytest.mark.parametrize("page", pages(), ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    broken: list[str] = []
    for target in LINK.findall(prose(page)):
        if target.startswith(("https://", "http://")):
            continue
        path, _, anchor = target.partition("#")
        file = (page.parent / path).resolve() if path else page
        # What is in `docs/` is a site of its own.
        outside = page != README and DOCS not in file.parents
        if not file.is_file() or outside or (anchor and anchor not in anchors(file)):
            broken.append(target)
    assert broken == []


def test_every_page_is_in_the_navigation() -> None:
    config = (ROOT / ".mkdocs.yml").read_text()
    nav = set(re.findall(r": (\S+\.md)$", config, re.MULTILINE))
    assert nav == {str(page.relative_to(DOCS)) for page in DOCS.rglob("*.md")}
