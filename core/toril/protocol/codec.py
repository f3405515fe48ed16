"""JSON as it is stored: payloads, results, options, stack traces.

What other languages would read differently is refused when it is written: integers beyond 2^53,
numbers that are not finite, text that is not valid Unicode, keys that are not text, and nesting
deeper than `DEEPEST`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final, cast

import msgspec

from toril.errors import InvalidJob
from toril.options import short_names
from toril.types import Json

DEEPEST: Final = 64
"""Levels of lists and objects in each other."""
LARGEST: Final = 2**53
"""The largest integer that every reader of JSON reads exactly."""

_encode: Final = msgspec.json.encode
_decode: Final = msgspec.json.decode
_ZEROS_FOR_DIGITS: Final = bytes.maketrans(b"123456789", b"0" * 9)
_LONG_NUMBER: Final = b"0" * 16


def encode_json(value: Json, what: str = "data", *, most_bytes: int | None = None) -> str:
    """`value` as JSON text.

    Args:
        value: What is to be stored.
        what: What it is, for the error message.
        most_bytes: Refuse a longer text.

    Raises:
        InvalidJob: It cannot be stored as JSON that everybody reads alike; the message names the
            place in it.
    """
    try:
        raw = _encode(value)
        plain = (
            _LONG_NUMBER not in raw.translate(_ZEROS_FOR_DIGITS)
            and _decode(raw) == value
            and (raw.count(b"[") + raw.count(b"{") <= DEEPEST or _shallow(value))
        )
    except (TypeError, ValueError, OverflowError, RecursionError):
        # UnicodeEncodeError is a ValueError, and so is what msgspec raises for large integers.
        raw, plain = b"", False
    if not plain:
        # Either something is wrong, or it takes a closer look to see that nothing is.
        _check(value, what, 0)
        raw = _encode(value)
    if most_bytes is not None and len(raw) > most_bytes:
        raise InvalidJob(f"{what} is {len(raw)} bytes as JSON; at most {most_bytes} are allowed")
    return raw.decode()


def _shallow(value: Any) -> bool:
    """Whether lists and objects are nested no deeper than `DEEPEST`; level by level."""
    level = [value]
    for _ in range(DEEPEST):
        level = [
            part
            for whole in level
            for part in (whole.values() if isinstance(whole, dict) else whole)
            if isinstance(part, dict | list)
        ]
        if not level:
            return True
    return False


def _check(value: Any, path: str, depth: int) -> None:
    """Raise `InvalidJob` for the first place at which `value` cannot be stored."""
    if isinstance(value, dict | list | tuple):
        if depth >= DEEPEST:
            raise InvalidJob(f"{path}: nested more than {DEEPEST} levels deep")
        for place, part in _parts(value, path):
            _check(part, place, depth + 1)
    elif isinstance(value, str):
        _check_text(value, path)
    elif isinstance(value, bool | None):
        pass
    elif isinstance(value, int):
        if abs(value) > LARGEST:
            raise InvalidJob(f"{path}: {value} is beyond 2^53; store it as text")
    elif isinstance(value, float):
        if not math.isfinite(value):
            raise InvalidJob(f"{path}: {value} is not a number in JSON")
    else:
        raise InvalidJob(
            f"{path}: a value of type {type(value).__name__} cannot be stored as JSON; "
            "give what can: texts, numbers, booleans, None, lists and dicts of these"
        )


def _parts(value: Any, path: str) -> Iterator[tuple[str, object]]:
    """The parts of a list or an object, each with its place."""
    if isinstance(value, dict):
        for key, part in cast("dict[object, object]", value).items():
            if not isinstance(key, str):
                raise InvalidJob(f"{path}: keys in JSON are texts, not {key!r}")
            _check_text(key, path)
            yield f"{path}.{key}", part
    else:
        for position, part in enumerate(cast("Sequence[object]", value)):
            yield f"{path}[{position}]", part


def _check_text(text: str, path: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError:
        raise InvalidJob(f"{path}: text that is not valid Unicode: {text[:40]!r}") from None


def decode_json(raw: bytes | str) -> Json:
    """The value of a JSON text. Raises `ValueError` if it is none."""
    try:
        return cast(Json, _decode(raw))
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ValueError(f"not JSON: {error}") from error


def encode_opts(opts: Mapping[str, Json]) -> str:
    """Job options (long names) as they are stored. `attempts` is always there, as in BullMQ.

    Raises:
        InvalidJob: A value cannot be stored.
    """
    return encode_json(short_names({"attempts": 0, **opts}), "opts")


def encode_stacktrace(entries: Sequence[str]) -> str:
    """The traces of failed attempts, oldest first, as they are stored."""
    return _encode([valid_text(entry) for entry in entries]).decode()


def valid_text(text: str) -> str:
    """`text` with what is not valid Unicode replaced; for error messages."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-8", "replace").decode()
    return text
