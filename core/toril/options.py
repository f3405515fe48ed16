"""BullMQ's names for job options: public (long) and stored (short).

Source: BullMQ's data format. Every option not named here is stored under its own name.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from toril.types import ChildFailurePolicy, Json, JsonObject

_SHORT: Final = {
    "deduplication": "de",
    "failParentOnFailure": "fpof",
    "continueParentOnFailure": "cpof",
    "ignoreDependencyOnFailure": "idof",
    "removeDependencyOnFailure": "rdof",
    "keepLogs": "kl",
}
_LONG: Final = {short: long for long, short in _SHORT.items()}

TIMEOUT_OPTION: Final = "toril.timeout"
"""How long a job's handler may run, in milliseconds: Toril's own, as BullMQ has no such option."""

POLICY_OPTION: Final[Mapping[ChildFailurePolicy, str]] = {
    "fail": "failParentOnFailure",
    "continue": "continueParentOnFailure",
    "ignore": "ignoreDependencyOnFailure",
    "remove": "removeDependencyOnFailure",
}
"""The option that stands for each child-failure policy; `wait` has none."""


def short_names(opts: Mapping[str, Json]) -> JsonObject:
    """Options as they are stored. None is left out, as BullMQ does."""
    return {_SHORT.get(key, key): value for key, value in opts.items() if value is not None}


def long_names(stored: Mapping[str, Json]) -> JsonObject:
    """Stored options under their public names."""
    return {_LONG.get(key, key): value for key, value in stored.items()}
