"""The tables in docs/performance.md, written from the figures that are stored beside this file."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Final

from tests.benchmarks.comparison.record import Record
from tests.benchmarks.comparison.tables import markdown
from tests.support.driver import ROOT

STORED: Final = Path(__file__).parent / "compare.json"
"""The figures that the page shows."""
PAGE: Final = ROOT / "docs" / "performance.md"
BEGIN: Final = "<!-- written by `python -m tests.benchmarks.compare --page` -->\n"
END: Final = "<!-- until here -->\n"


def page(text: str, record: Record) -> str:
    """The page with the tables of `record` between its two marks.

    Raises:
        ValueError: A mark is missing.
    """
    before, _, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not end:
        raise ValueError(f"{PAGE.name} has no place for the tables: {BEGIN!r} … {END!r}")
    return f"{before}{BEGIN}\n{markdown(record)}\n{END}{after}"


def write_page(source: Path = STORED) -> None:
    """Store the figures of `source`, and write the page from them."""
    if source.resolve() != STORED:
        shutil.copy(source, STORED)
    PAGE.write_text(page(PAGE.read_text(), Record.read(STORED)))
