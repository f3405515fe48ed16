"""Fenced blocks of the documentation: what a page shows, and in which order."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"
README = ROOT / "README.md"

_FENCE = re.compile(r"^(?P<indent> *)(?P<fence>`{3,}|~{3,})(?P<info>.*)$")
_OPTION = re.compile(r'([a-z]+)="([^"]*)"')


@dataclass(frozen=True)
class Block:
    """One fenced block. `line` is the line of its opening fence, from 1.

    `options` are the words after the language: `title` (the file it shows) and `skip` (why it
    must not run).
    """

    page: Path
    line: int
    language: str
    options: Mapping[str, str]
    text: str

    def __str__(self) -> str:
        return f"{self.page.relative_to(ROOT)}:{self.line}"


def pages() -> list[Path]:
    """Every page with something to check: the README and all of `docs/`, decisions apart."""
    return [README, *(path for path in sorted(DOCS.rglob("*.md")) if "decisions" not in path.parts)]


def blocks(page: Path) -> Iterator[Block]:
    """The blocks of a page, from top to bottom.

    Raises:
        ValueError: A block is not closed, or does not name its language.
    """
    fence = indent = info = ""
    opened = 0
    content: list[str] = []
    for number, line in enumerate(page.read_text().splitlines(), 1):
        found = _FENCE.match(line)
        if not fence:
            if found:
                fence, indent, info = found["fence"], found["indent"], found["info"].strip()
                opened, content = number, []
        elif found and found["fence"].startswith(fence) and not found["info"].strip():
            language, _, rest = info.partition(" ")
            if not language:
                raise ValueError(f"{page}:{opened}: a block names its language")
            text = "".join(f"{each.removeprefix(indent)}\n" for each in content)
            yield Block(page, opened, language, dict(_OPTION.findall(rest)), text)
            fence = ""
        else:
            content.append(line)
    if fence:
        raise ValueError(f"{page}:{opened}: a block that is not closed")
