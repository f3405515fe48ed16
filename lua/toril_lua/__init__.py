"""The server-side scripts of Toril and the catalogue that composes them."""

from toril_lua.catalogue import (
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
