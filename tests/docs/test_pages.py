"""Every block of every page does what it shows."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.docs.blocks import ROOT, blocks, pages
from tests.docs.page import running, unused_files
from tests.support.node import Node


def _id(page: Path) -> str:
    return str(page.relative_to(ROOT))


@pytest.mark.parametrize("page", pages(), ids=_id)
def test_page(page: Path, tmp_path: Path, redis_url: str, request: pytest.FixtureRequest) -> None:
    found = list(blocks(page))
    extra: dict[str, str] = {}
    if any(block.language == "javascript" for block in found):
        node: Node = request.getfixturevalue("node")
        extra = {"PATH": str(node.program.parent), "NODE_PATH": str(node.home / "node_modules")}
    with running(page, tmp_path, redis_url, extra) as run:
        for block in found:
            run(block)


@pytest.mark.parametrize("page", pages(), ids=_id)
def test_files_of_a_page_are_used(page: Path) -> None:
    assert list(unused_files(list(blocks(page)))) == []


def test_only_the_installation_is_not_run() -> None:
    skipped = [block for page in pages() for block in blocks(page) if "skip" in block.options]
    names = sorted(block.page.name for block in skipped)
    assert names == ["README.md", "README.md", "performance.md"], "and the long comparison"
