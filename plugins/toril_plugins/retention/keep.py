"""`Keep`: how long one finished job is kept, and what of it."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass, fields
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Self, TypeAlias, cast

from toril.plugins import Json, JsonObject, duration_text, milliseconds
from toril_plugins.retention.grammar import read_keep, write_keep
from toril_plugins.retention.spelling import check_names

LARGEST = 2**53
"""The largest number that every reader of the stored values reads exactly; ages in milliseconds."""
LONGEST_GROUP = 100
"""Characters of a group's name. A longer one stands as its beginning and a hash of the whole."""

_KEY = re.compile(r"name|data(\.[^\s.,]+)+")
_DURATIONS = ("age", "logs", "data", "tombstone")
_ORDER = (("logs", "data"), ("data", "age"), ("logs", "age"), ("age", "tombstone"))


@dataclass(frozen=True, slots=True, repr=False)
class Keep:
    """How long one finished job is kept, and what of it.

    Args:
        age: it goes when that long has passed since it finished; a `timedelta` or `"7d"`.
        last: it goes when that many newer ones are kept. 0 keeps nothing.
        first: the oldest that many stay, whatever comes after them. With `last`, the oldest
            `first` and the newest `last` stay, and what is between them goes.
        key: counts per job name (`"name"`) or per value of a field of the data
            (`"data.customer.id"`), not over all jobs.
        group: counts among the jobs for which the same text was said, such as the fingerprint of
            a failure. Said for all jobs of a queue it makes no difference.
        logs: after that long its log lines and stack traces go.
        data: after that long its data becomes `{}`, and its result, its progress and what its
            children returned go.
        tombstone: what is left of it when it is gone (name, outcome, times, result or reason up to
            1 KiB) is forgotten that long after it finished.
        flow: said for a flow: its jobs stay until its root has ended and `age` has passed since
            then; then the whole tree goes, leaves first. Goes with `age` and `tombstone` only.

    With `age` and a count it goes at whichever comes first.

    Raises:
        ValueError: a number is negative or beyond 2^53; `logs`, `data`, `age` and `tombstone` do
            not ascend; `data` with a `key` in the data; `key` or `group` without a count, or
            together; `key` is not of that form (a field with a space, a dot or a comma in its name
            cannot be named); `tombstone` for a job that never goes; `flow` with anything but an age
            and a tombstone.
        TypeError: for an age that is a bare number, and for an argument that there is not.
    """

    age: timedelta | str | None = None
    last: int | None = None
    first: int | None = None
    key: str | None = None
    group: str | None = None
    logs: timedelta | str | None = None
    data: timedelta | str | None = None
    tombstone: timedelta | str | None = None
    flow: bool = False

    if not TYPE_CHECKING:  # the signature is that of the dataclass

        def __new__(cls, *_: object, **given: object) -> Self:
            check_names("Keep", given, _STORED)
            return object.__new__(cls)

    def __post_init__(self) -> None:
        for name in _DURATIONS:
            value = getattr(self, name)
            if value is not None:
                ms = milliseconds(value)
                if ms > LARGEST:
                    raise ValueError(f"Keep({name}={value!r}): that is for ever{_instead(name)}")
                object.__setattr__(self, name, timedelta(milliseconds=ms))
        for name in ("last", "first"):
            _check_count(name, getattr(self, name))
        if self.first == 0 or (self.first and self.last == 0):
            # Neither of the two, or only the oldest: one spelling of each.
            first, last = (self.first or None), (self.last or None)
            object.__setattr__(self, "first", first)
            object.__setattr__(self, "last", last if first or last else 0)
        self._check_bucket()
        self._check_tiers()
        if self.flow:
            self._check_flow()

    def _check_bucket(self) -> None:
        name = "group" if self.group is not None else "key"
        if self.key is None and self.group is None:
            return
        if not self.last and not self.first:
            raise ValueError(f"Keep({name}=…) counts jobs, so it needs last=1 or first=1 or more")
        if self.key is not None and self.group is not None:
            raise ValueError("Keep(key=…, group=…): say by what the jobs are counted once")
        if self.key is not None and not _KEY.fullmatch(self.key):
            raise ValueError(
                f"Keep(key={self.key!r}): a key is 'name' or a field of the data, "
                "for example 'data.customer.id'"
            )
        if self.group is not None:
            object.__setattr__(self, "group", _group_name(self.group))

    def _check_tiers(self) -> None:
        for earlier, later in _ORDER:
            before, after = self.ms(earlier), self.ms(later)
            if before is None or after is None:
                continue
            if before > after or (before == after and later != "data"):
                raise ValueError(
                    f"Keep({earlier}={duration_text(before)!r}, {later}={duration_text(after)!r}): "
                    f"{earlier} comes before {later}, so its time is the shorter one"
                )
        if self.is_nothing and (self.logs is not None or self.data is not None):
            raise ValueError("Keep(logs=…) and Keep(data=…) need a job that is kept for a while")
        if self.data is not None and self.key is not None and self.key != "name":
            raise ValueError(
                f"Keep(key={self.key!r}, data=…): once the data is gone nobody can tell by what "
                "the job is counted; count by 'name' or in a group"
            )
        if self.tombstone is not None and self.is_forever:
            raise ValueError("Keep(tombstone=…) is what is left when the job goes: say age or last")

    def _check_flow(self) -> None:
        for name in ("last", "first", "logs", "data"):
            if getattr(self, name) is not None:
                raise ValueError(
                    f"Keep(flow=True, {name}=…): a flow that is kept whole goes by age alone"
                )

    @classmethod
    def forever(cls) -> Self:
        """Keep it until somebody removes it."""
        return cls()

    @classmethod
    def nothing(cls) -> Self:
        """Remove it as soon as it has finished."""
        return cls(last=0)

    @classmethod
    def parse(cls, text: str) -> Self:
        """What people type: `str(keep)` reads back, and so do `forever`, `1000` and `7d`.

        The grammar is in `toril_plugins.retention.grammar`. Raises `ValueError` for anything else.
        """
        return cls(**read_keep(text))

    def ms(self, name: str) -> int | None:
        """One of the durations `age`, `logs`, `data` and `tombstone` in milliseconds, or None."""
        value = getattr(self, name)
        return None if value is None else milliseconds(value)

    @property
    def age_ms(self) -> int | None:
        """The age in milliseconds."""
        return self.ms("age")

    @property
    def is_forever(self) -> bool:
        """Whether it stays until somebody removes it."""
        return self.age is None and self.last is None and self.first is None

    @property
    def is_nothing(self) -> bool:
        """Whether it goes as soon as it has finished."""
        return (self.last == 0 or self.age_ms == 0) and not self.flow

    def __str__(self) -> str:
        return write_keep(self)

    def __repr__(self) -> str:
        if self == Keep.forever():
            return "Keep.forever()"
        if self == Keep.nothing():
            return "Keep.nothing()"
        given = {
            f.name: value for f in fields(self) if (value := getattr(self, f.name)) != f.default
        }
        for name in given.keys() & set(_DURATIONS):
            given[name] = duration_text(milliseconds(given[name]))
        parts = [repr(given.pop("age"))] if "age" in given else []
        return f"Keep({', '.join(parts + [f'{name}={value!r}' for name, value in given.items()])})"

    def encode(self) -> JsonObject:
        """The value as JSON, durations in milliseconds; `decode` reads it back."""
        encoded: JsonObject = {}
        for field in fields(self):
            name = field.name
            value = self.ms(name) if name in _DURATIONS else getattr(self, name)
            if value != field.default:
                encoded[name] = value
        return encoded

    @classmethod
    def decode(cls, value: Json) -> Self:
        """Read what `encode` wrote; `ValueError` for anything else."""
        kinds = {field.name: _STORED[field.name] for field in fields(cls)}
        if not isinstance(value, dict) or not value.keys() <= kinds.keys():
            raise ValueError(f"not a stored Keep: {value!r}")
        given: dict[str, Any] = dict(value)
        for name, stored in value.items():
            if not isinstance(stored, kinds[name]) or (
                isinstance(stored, bool) and kinds[name] is not bool
            ):
                raise ValueError(f"not a stored Keep: {value!r}")
            if name in _DURATIONS:
                ms = cast(int, stored)
                if not 0 <= ms <= LARGEST:
                    raise ValueError(f"not a stored Keep: {value!r}")
                given[name] = timedelta(milliseconds=ms)
        return cls(**given)


_STORED: Mapping[str, type] = {
    **dict.fromkeys((*_DURATIONS, "last", "first"), int),
    "key": str,
    "group": str,
    "flow": bool,
}


def _instead(name: str) -> str:
    return "; say Keep.forever()" if name in ("age", "last") else ""


def _check_count(name: str, value: object) -> None:
    if value is None:
        return
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise ValueError(f"Keep({name}={value!r}): give a number of jobs, 0 or more")
    if value > LARGEST:
        raise ValueError(f"Keep({name}={value!r}): that is for ever{_instead(name)}")


def _group_name(group: object) -> str:
    """The name of a bucket, of at most `LONGEST_GROUP` characters that can be stored."""
    if not isinstance(group, str) or not group:
        raise ValueError(f"Keep(group={group!r}): a group is a text that is not empty")
    stored = group.encode("utf-8", "replace")
    text = stored.decode()
    if len(text) <= LONGEST_GROUP:
        return text
    digest = hashlib.sha1(stored, usedforsecurity=False).hexdigest()[:16]
    return f"{text[: LONGEST_GROUP - 17]} {digest}"


KeepLike: TypeAlias = Keep | int | str | timedelta
"""A `Keep`, or short for one: a number of jobs, or an age."""


def as_keep(value: KeepLike) -> Keep:
    """The `Keep` that a short form stands for. Raises `TypeError` for anything else."""
    if isinstance(value, Keep):
        return value
    if isinstance(value, bool):
        raise TypeError(f"say Keep.forever() or Keep.nothing(), not {value!r}")
    if isinstance(value, int):
        return Keep(last=value)
    if isinstance(value, str | timedelta):
        return Keep(age=value)
    raise TypeError(f"give a Keep, a number of jobs or an age such as '7d', not {value!r}")
