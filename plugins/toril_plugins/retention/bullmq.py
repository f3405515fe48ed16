"""BullMQ's own shape of retention, stored in a job's options.

Source: BullMQ's data format: `removeOnComplete` and `removeOnFail` are `true` (remove at once),
`false` (keep), a count, or an object `{count, age, limit}` with the age in seconds.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from datetime import timedelta
from typing import Final

from toril.plugins import Json, JsonObject, Outcome
from toril_plugins.retention.values import LARGEST, Keep

OPTION: Final[Mapping[Outcome, str]] = {
    "completed": "removeOnComplete",
    "failed": "removeOnFail",
}


def to_option(keep: Keep) -> Json:
    """What a foreign worker is told.

    Never less than what was said. An age, a count of the newest and "nothing" have such a form. For
    the rest (the oldest, a count per key or in a group, a flow kept whole, a tombstone, which their
    removals do not leave) they are told to keep, and the sweeper does the exact thing.
    """
    told = Keep(age=keep.age, last=keep.last, logs=keep.logs, data=keep.data)
    if keep.is_forever or keep != told:
        return False
    if keep.is_nothing:
        return True
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
        return Keep(last=_whole(value))
    if not isinstance(value, dict):
        return None
    age_ms = _whole(value.get("age"), 1000)
    return Keep(
        last=_whole(value.get("count")),
        age=None if age_ms is None else timedelta(milliseconds=age_ms),
    )


def _whole(value: Json, times: int = 1) -> int | None:
    """A limit as a whole number, rounded up; None, no limit, for what cannot be one."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    number = round(value * times, 3)  # 4.049 seconds are not quite 4049 milliseconds
    return math.ceil(number) if 0 <= number <= LARGEST else None
