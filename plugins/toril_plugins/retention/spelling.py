"""Wrong names for arguments, answered with the right ones."""

from __future__ import annotations

from collections.abc import Iterable

from toril.plugins import did_you_mean

_MEANT = {
    "completed": "complete success succeeded on_complete remove_on_complete removeOnComplete",
    "failed": "fail failure error on_fail on_failure remove_on_fail removeOnFail",
    "last": "count limit max newest latest max_count keep_last",
    "first": "oldest keep_first",
    "age": "max_age ttl keep_for period seconds duration",
    "key": "per by field key_by",
    "tombstone": "tomb tombstones",
    "data": "result payload drop_data",
    "logs": "log drop_logs stacktrace",
}
_RIGHT = {wrong: right for right, wrongs in _MEANT.items() for wrong in wrongs.split()}


def check_names(what: str, given: Iterable[str], known: Iterable[str]) -> None:
    """Refuse an argument that `what` does not have, and name the one that was probably meant.

    Raises:
        TypeError: there is one.
    """
    names = sorted(known)
    for name in given:
        if name in names:
            continue
        right = _RIGHT.get(name)
        hint = f"; did you mean {right!r}?" if right in names else did_you_mean(name, names)
        raise TypeError(f"{what}() has no {name!r}{hint or '; there are ' + ', '.join(names)}")
