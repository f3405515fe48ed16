"""Calling a plugin's own script."""

from __future__ import annotations

from typing import Any, cast

import msgspec

from toril.connection.call import Call
from toril.protocol.effects import REMOVED, ChunkError, Effects, Wants, unpack, with_effects
from toril.protocol.replies import text
from toril.types import Json


def lua_bytes(raw: bytes) -> Json:
    """Bytes that need not be text, for the `args` of a plugin's script: they arrive as they are."""
    # The MessagePack of the server's Lua knows no type for bytes; its texts are bytes.
    return cast(Json, msgspec.Raw(b"\xdb" + len(raw).to_bytes(4, "big") + raw))


def plugin_call(
    queue: str,
    plugin: str,
    script: str,
    args: Json,
    *,
    now: int,
    wants: Wants = frozenset(),
) -> Call[Effects[Json]]:
    """Run the script that `plugin` registered as `script`, on one queue.

    Args:
        queue: The queue's key.
        plugin: The plugin's name.
        script: The script's name.
        args: What the script gets as `args`.
        now: Milliseconds since the epoch; the script's `ctx.now`.
        wants: The event hooks that somebody implements.

    The result is the script's value. If the script broke the value is None and `chunk_errors` says
    why; what it had done by then stays done, and its events are there.
    """
    request = {"now": now, "args": args, "want_removed": REMOVED in wants}

    def parse(reply: Any) -> Effects[Json]:
        ok, value, told = reply
        if ok:
            return with_effects(unpack(value), told)
        effects: Effects[Json] = with_effects(None, told)
        broken = ChunkError(plugin, "script", text(value))
        return Effects(None, effects.events, (*effects.chunk_errors, broken), effects.reports)

    return Call(f"plugin:{plugin}:{script}", (queue,), (msgspec.msgpack.encode(request),), parse)
