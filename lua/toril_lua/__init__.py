"""The server-side scripts of Toril and the catalogue that composes them."""

from toril_lua.catalogue import (
    ALWAYS,
    POINTS,
    Chunk,
    Header,
    Script,
    ScriptError,
    compose,
    compose_plugin_script,
    header,
    names,
)

__all__ = [
    "ALWAYS",
    "POINTS",
    "Chunk",
    "Header",
    "Script",
    "ScriptError",
    "compose",
    "compose_plugin_script",
    "header",
    "names",
]
