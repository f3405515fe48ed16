"""Where a benchmark leaves what it has found."""

from __future__ import annotations

import json
from pathlib import Path


def write(folder: Path, name: str, table: str, record: object) -> None:
    """Write `<name>.md` with the table, and `<name>.json` with the record, into a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{name}.md").write_text(table + "\n")
    (folder / f"{name}.json").write_text(json.dumps(record, indent=1))
