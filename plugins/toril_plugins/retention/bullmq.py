"""BullMQ's own shape of retention, stored in a job's options.

Source: BullMQ's data format: `removeOnComplete` and `removeOnFail` are `true` (remove at once),
`false` (keep), a count, or an object `{count, age, limit}` with the age in seconds.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from typing import Final

from toril.plugins import Json, JsonObject, Outcome
from toril_plugins.retention.values import Keep

OPTION: Final[Mapping[Outcome, str]] = {
    "completed": "removeOnComplete",
    "failed": "removeOnFail",
}


def to_option(keep: Keep) -> Json:
    """What a foreign worker is told.

    A count per key has no such form: foreign workers are told to keep, and the sweeper applies it.
    """
    if keep.is_nothing:
        return True
    if keep.is_forever or keep.key is not None:
        return False
    option: JsonObject = {}
    if keep.last is not None:
        option["count"] = keep.last
    if keep.age_ms is not None:
        option["age"] = keep.age_ms // 1000 if keep.age_ms % 1000 == 0 else keep.age_ms / 1000
    return option


def from_option(value: Json) -> Keep | None:
    """What a stored option says; None if it says nothing that can be understood."""
    if isinstance(value, bool):
        return Keep.nothing() if value else Keep.forever()
    if isinstance(value, int | float):
        return Keep(last=int(value)) if value >= 0 else Keep.forever()
    if not isinstance(value, dict):
        return None
    count, age = value.get("count"), value.get("age")
    has_count = isinstance(count, int | float) and not isinstance(count, bool) and count >= 0
    has_age = isinstance(age, int | float) and not isinstance(age, bool) and age >= 0
    return Keep(
        last=int(count) if has_count and isinstance(count, int | float) else None,
        age=timedelta(seconds=age) if has_age and isinstance(age, int | float) else None,
    )
