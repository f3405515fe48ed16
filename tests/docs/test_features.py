"""The table of BullMQ's features: each has its row, and the tests that it names exist."""

from __future__ import annotations

import re

import pytest

from tests.docs.blocks import DOCS, ROOT
from tests.interop.scenarios import SCENARIOS

ROWS = [
    tuple(cell.strip() for cell in line.strip().strip("|").split(" | "))
    for line in (DOCS / "features.md").read_text().splitlines()
    if re.match(r"\| \d", line)
]
STORIES = {scenario.name: scenario for scenario in SCENARIOS}


def test_every_feature_has_one_row() -> None:
    assert [int(row[0]) for row in ROWS] == list(range(1, 116))
    assert {len(row) for row in ROWS} == {4}


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row[0])
def test_what_proves_it_exists(row: tuple[str, ...]) -> None:
    proof = row[3]
    story, named = re.fullmatch(r'"(.+)"', proof), re.fullmatch(r"`(.+?)(?:::(\w+))?`", proof)
    if story is not None:
        assert story[1] in STORIES
        # Toril plays it in both roles.
        assert not {"toril producer", "toril worker"} & STORIES[story[1]].unable.keys()
    else:
        assert named is not None, proof
        text = (ROOT / "tests" / named[1]).read_text()
        assert named[2] is None or re.search(rf"def {named[2]}\b", text), proof
