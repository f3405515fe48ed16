"""Puts the headers of the server-side scripts into the page about them."""

from __future__ import annotations

from typing import Any

from toril_lua import header, names

PLACE = "<!-- scripts -->"


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Called by MkDocs for every page."""
    return markdown.replace(PLACE, scripts()) if PLACE in markdown else markdown


def scripts() -> str:
    """One heading per script, with what its header says."""
    return "\n".join(_script(name) for name in (*names(), "plugin"))


def _script(name: str) -> str:
    said = header(name)
    parts = [f"## {name}", "", said.purpose, ""]
    for title, text in (
        ("Keys", said.keys),
        ("Arguments", said.arguments),
        ("Returns", said.returns),
        ("Events", said.events),
        ("Seam", ", ".join(said.seam)),
    ):
        if text:
            parts += [f"{title}:", "", "```text", text, "```", ""]
    return "\n".join(parts)
