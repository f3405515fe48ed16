"""Asking the server whether Lua compiles."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from toril.connection.call import Call, Resend
from toril.protocol.replies import text


def compile_lua(where: str, sources: Sequence[tuple[str, str]]) -> Call[tuple[str, ...]]:
    """What is wrong with texts of Lua, '' for one that compiles; nothing of them is run.

    Args:
        where: Any key; in a cluster its server is asked.
        sources: What messages shall call a text, and the text: the body of a function.
    """

    def parse(reply: list[Any]) -> tuple[str, ...]:
        return tuple(text(wrong) for wrong in reply)

    arguments = tuple(part for source in sources for part in source)
    return Call("compile", (where,), arguments, parse, Resend.ALWAYS)
