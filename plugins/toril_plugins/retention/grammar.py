"""How people write a `Keep`: one grammar, for commands, configuration and what is shown.

    keep  = "for ever" | "nothing" | part {"," part}
    part  = count | age | "for ever" | "nothing" | "flow"
          | "logs" age | "data" age | "tombstone" age
    count = ("first" N ["and" "last" N] | "last" N | N) ["per" key | "of" group]

`key` is `name` or `data.field`; `group` a text in double quotes, as in JSON; an age as everywhere,
`7d` or `1h 30m`. A bare number counts the newest.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from toril.plugins import duration_text

if TYPE_CHECKING:
    from toril_plugins.retention.keep import Keep

TIERS = ("logs", "data", "tombstone")

_QUOTED = r'"(?:[^"\\]|\\.)*"'
_PARTS = re.compile(rf"(?:\bof\s+{_QUOTED}|[^,])+")
_COUNT = re.compile(
    r"(?:first\s+(?P<first>\d+)(?:\s+(?:and\s+)?last\s+(?P<both>\d+))?|(?:last\s+)?(?P<last>\d+))"
    rf"(?:\s+per\s+(?P<key>\S+)|\s+of\s+(?P<group>{_QUOTED}))?"
)


def read_keep(text: str) -> dict[str, Any]:
    """The arguments of the `Keep` that `text` stands for.

    Raises:
        ValueError: something is said twice, or the text does not follow the grammar as a whole.
            Ages and keys are not looked at.
    """
    parts = _PARTS.findall(text)
    if len(_PARTS.sub("", text)) != len(parts) - 1:
        raise ValueError(f"{text!r}: nothing is said where there is no word")
    said: dict[str, Any] = {}
    for part in parts:
        for name, value in _read_part(part.strip()).items():
            if name in said:
                raise ValueError(f"{text!r} says {name} twice")
            said[name] = value
    if said.pop("forever", False) and said.keys() & {"age", "first", "last"}:
        raise ValueError(f"{text!r} says for ever and not for ever")
    return said


def _read_part(part: str) -> dict[str, Any]:
    if part in ("forever", "for ever"):
        return {"forever": True}
    if part == "nothing":
        return {"last": 0}
    if part == "flow":
        return {"flow": True}
    tier, _, age = part.partition(" ")
    if tier in TIERS:
        return {tier: age.strip()}
    count = _COUNT.fullmatch(part)
    if count is None:
        return {"age": part}
    said: dict[str, Any] = {"first": count["first"], "last": count["last"] or count["both"]}
    said = {name: int(number) for name, number in said.items() if number is not None}
    if count["key"] is not None:
        said["key"] = count["key"]
    if count["group"] is not None:
        said["group"] = json.loads(count["group"])
    return said


def write_keep(keep: Keep) -> str:
    """The text of a `Keep`, in one line; `read_keep` reads it back."""
    return ", ".join(_written(keep))


def _written(keep: Keep) -> Iterator[str]:
    if keep.is_nothing:
        yield "nothing"
    elif keep.is_forever:
        yield "for ever"
    else:
        if keep.first is not None or keep.last is not None:
            yield _written_count(keep)
        if keep.age_ms is not None:
            yield duration_text(keep.age_ms)
    if keep.flow:
        yield "flow"
    for tier in TIERS:
        ms = keep.ms(tier)
        if ms is not None:
            yield f"{tier} {duration_text(ms)}"


def _written_count(keep: Keep) -> str:
    counts = [
        f"{which} {number}"
        for which, number in (("first", keep.first), ("last", keep.last))
        if number is not None
    ]
    text = " and ".join(counts)
    if keep.key is not None:
        return f"{text} per {keep.key}"
    if keep.group is not None:
        return f"{text} of {json.dumps(keep.group, ensure_ascii=False)}"
    return text
