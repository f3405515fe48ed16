"""Raw replies of the server as Python values."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import msgspec

from toril.types import Json


def text(raw: bytes) -> str:
    """Bytes as text; what is not UTF-8 is replaced."""
    return raw.decode("utf-8", "replace")


def json_or_text(raw: bytes) -> Json:
    """The JSON value, or the text itself: what a foreigner garbled must not stop a reader."""
    try:
        return cast(Json, msgspec.json.decode(raw))
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return text(raw)


def hash_fields(reply: Any) -> dict[bytes, bytes]:
    """A hash: a flat list from a script, or a map where the connection speaks RESP3."""
    if isinstance(reply, dict):
        return cast("dict[bytes, bytes]", reply)
    flat: Sequence[bytes] = reply
    return dict(zip(flat[::2], flat[1::2], strict=True))
