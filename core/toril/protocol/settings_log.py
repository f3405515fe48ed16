"""The history of a queue's live settings: who said what when, and what it was before.

The stream `Q:toril:said`, about 1,000 entries, written by `setting` in the step that changes the
value. The fields of an entry are those of `SettingEntry`; `value` and `before` are JSON.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

import msgspec

from toril.connection.call import Read
from toril.protocol.replies import json_or_text, text
from toril.setting import Level
from toril.types import Json

How = Literal["set", "declared"]
"""`set`: by a person or program at run time; `declared`: in code, published at start."""

_TEXTS: Final = ("setting", "level", "how", "source")


@dataclass(frozen=True, slots=True)
class SettingEntry:
    """One change of what is said for a queue.

    `at`: when, in milliseconds since the epoch; `setting`: the name of its kind; `source`: who or
    what said it. `value` and `before` are as the kind encodes them; None: nothing was said.
    """

    at: int
    setting: str
    level: Level
    how: How
    source: str
    value: Json
    before: Json


def entry_fields(entry: SettingEntry) -> Mapping[str, str]:
    """An entry as it is stored; a value of None is left out."""
    fields = {"at": str(entry.at)} | {name: getattr(entry, name) for name in _TEXTS}
    for name, value in (("value", entry.value), ("before", entry.before)):
        if value is not None:
            fields[name] = msgspec.json.encode(value).decode()
    return fields


def read_log(queue: str, limit: int) -> Read[tuple[SettingEntry, ...]]:
    """The newest `limit` entries (at least 1), newest first."""
    command = ("XREVRANGE", f"{queue}:toril:said", "+", "-", "COUNT", limit)
    return Read((command,), lambda replies: tuple(_entry(flat) for _, flat in replies[0]))


def _entry(flat: Sequence[bytes]) -> SettingEntry:
    fields = {text(name): value for name, value in zip(flat[::2], flat[1::2], strict=True)}
    told: Any = {name: text(fields.get(name, b"")) for name in _TEXTS}
    told |= {name: json_or_text(fields.get(name, b"null")) for name in ("value", "before")}
    return SettingEntry(at=int(fields.get("at", 0)), **told)
