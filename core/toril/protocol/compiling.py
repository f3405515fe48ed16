"""Asking the server whether Lua compiles."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from toril.connection.call import Call, Resend
from toril.protocol.replies import text

_ANY_SERVER = "{toril}"
"""A key that the script does not touch; it says which server of a cluster is asked."""


def compile_lua(sources: Sequence[tuple[str, str]]) -> Call[tuple[str, ...]]:
    """What is wrong with texts of Lua, '' for one that compiles; nothing of them is run.

    `sources`: what messages shall call a text, and the text: the body of a function.
    """

    def parse(reply: list[Any]) -> tuple[str, ...]:
        return tuple(text(wrong) for wrong in reply)

    arguments = tuple(part for source in sources for part in source)
    return Call("compile", (_ANY_SERVER,), arguments, parse, Resend.ALWAYS)
