"""Every block of every page does what it shows."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.docs.blocks import ROOT, blocks, pages
from tests.docs.page import running, unused_files
from tests.support.node import Node


def _id(page: Path) -> str:
    return str(page.relative_to(ROOT))


@pytest.fixture(scope="session")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Toril as its users get it, for pages that begin with its installation."""
    folder = tmp_path_factory.mktemp("wheel")
    build = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation"]
    subprocess.run([*build, "--no-index", "--wheel-dir", folder, ROOT], check=True)
    (built,) = folder.glob("*.whl")
    return built


@pytest.mark.timeout(300)  # a page can start a hundred processes
@pytest.mark.parametrize("page", pages(), ids=_id)
def test_page(page: Path, tmp_path: Path, redis_url: str, request: pytest.FixtureRequest) -> None:
    found = list(blocks(page))
    extra = {"TORIL_SOURCE": str(ROOT)}
    if any(block.language == "javascript" for block in found):
        node: Node = request.getfixturevalue("node")
        extra |= {"PATH": str(node.program.parent), "NODE_PATH": str(node.home / "node_modules")}
    if any("pip install 'toril" in block.text for block in found):
        extra["PIP_FIND_LINKS"] = str(request.getfixturevalue("wheel").parent)
    with running(page, tmp_path, redis_url, extra) as run:
        for block in found:
            run(block)


@pytest.mark.parametrize("page", pages(), ids=_id)
def test_files_of_a_page_are_used(page: Path) -> None:
    assert list(unused_files(list(blocks(page)))) == []


def test_only_the_installation_is_not_run() -> None:
    skipped = [block for page in pages() for block in blocks(page) if "skip" in block.options]
    names = sorted(block.page.name for block in skipped)
    assert names == ["README.md", "README.md", "arq.md", "performance.md"], (
        "and the long comparison, and what test_porting runs"
    )
