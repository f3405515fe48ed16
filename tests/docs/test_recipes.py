"""The page of recipes shows what is tested."""

from __future__ import annotations

from tests.docs.blocks import DOCS, ROOT, blocks

CASES = ROOT / "tests" / "plugins" / "cases"


def test_every_case_is_shown_as_it_is_tested() -> None:
    shown = {
        block.options["title"]: block.text
        for block in blocks(DOCS / "plugins" / "recipes.md")
        if "title" in block.options
    }
    assert shown == {path.name: path.read_text() for path in CASES.glob("*.py")}
