"""What can be said about how long finished jobs are kept."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import ClassVar, Self, TypeAlias

from toril import Setting
from toril.plugins import Json, JsonObject, Outcome, Said, duration_text, milliseconds

OUTCOMES: tuple[Outcome, ...] = ("completed", "failed")

LARGEST = 2**53
"""The largest number that every reader of the stored values reads exactly; ages in milliseconds."""

_COUNT = re.compile(r"(?:last\s+)?(?P<last>\d+)(?:\s+per\s+(?P<key>\S+))?")
_KEY = re.compile(r"name|data(\.[^\s.,]+)+")


@dataclass(frozen=True, slots=True)
class Keep:
    """How long one finished job is kept.

    Args:
        age: it goes when that long has passed since it finished; a `timedelta` or `"7d"`.
        last: it goes when that many newer ones are kept. 0 keeps nothing.
        key: counts `last` per job name (`"name"`) or per value of a field of the data
            (`"data.customer.id"`), not over all jobs.

    With `age` and `last` it goes at whichever comes first.

    Raises:
        ValueError: a number is negative or beyond 2^53, or `key` has no `last` or is not of that
            form. A field with a space, a dot or a comma in its name cannot be named.
        TypeError: for an age that is a bare number.
    """

    age: timedelta | str | None = None
    last: int | None = None
    key: str | None = None

    def __post_init__(self) -> None:
        if self.age is not None:
            ms = milliseconds(self.age)
            if ms > LARGEST:
                raise ValueError(f"Keep(age={self.age!r}): that is for ever; say Keep.forever()")
            object.__setattr__(self, "age", timedelta(milliseconds=ms))
        if self.last is not None and (isinstance(self.last, bool) or self.last < 0):
            raise ValueError(f"Keep(last={self.last!r}): give a number of jobs, 0 or more")
        if self.last is not None and self.last > LARGEST:
            raise ValueError(f"Keep(last={self.last!r}): that is for ever; say Keep.forever()")
        if self.key is not None:
            if not self.last:
                raise ValueError("Keep(key=…) counts jobs, so it needs last=1 or more")
            if not _KEY.fullmatch(self.key):
                raise ValueError(
                    f"Keep(key={self.key!r}): a key is 'name' or a field of the data, "
                    "for example 'data.customer.id'"
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

        Raises `ValueError` for anything else.
        """
        if text in ("forever", "for ever"):
            return cls.forever()
        if text == "nothing":
            return cls.nothing()
        age: str | None = None
        last: int | None = None
        key: str | None = None
        for part in text.split(","):
            if count := _COUNT.fullmatch(part.strip()):
                last, key = int(count["last"]), count["key"]
            else:
                age = part.strip()
        return cls(age=age, last=last, key=key)

    @property
    def age_ms(self) -> int | None:
        """The age in milliseconds."""
        return None if self.age is None else milliseconds(self.age)

    @property
    def is_forever(self) -> bool:
        """Whether it stays until somebody removes it."""
        return self.age is None and self.last is None

    @property
    def is_nothing(self) -> bool:
        """Whether it goes as soon as it has finished."""
        return self.last == 0 or self.age_ms == 0

    def __str__(self) -> str:
        if self.is_forever:
            return "for ever"
        if self.is_nothing:
            return "nothing"
        parts: list[str] = []
        if self.last is not None:
            parts.append(f"last {self.last}" + (f" per {self.key}" if self.key else ""))
        if self.age_ms is not None:
            parts.append(duration_text(self.age_ms))
        return ", ".join(parts)

    def encode(self) -> JsonObject:
        """The value as JSON; `decode` reads it back."""
        encoded: JsonObject = {}
        if self.age_ms is not None:
            encoded["age"] = self.age_ms
        if self.last is not None:
            encoded["last"] = self.last
        if self.key is not None:
            encoded["key"] = self.key
        return encoded

    @classmethod
    def decode(cls, value: Json) -> Self:
        """Read what `encode` wrote; `ValueError` for anything else."""
        if not isinstance(value, dict) or not value.keys() <= {"age", "last", "key"}:
            raise ValueError(f"not a stored Keep: {value!r}")
        age, last, key = value.get("age"), value.get("last"), value.get("key")
        if not (
            (age is None or (isinstance(age, int) and 0 <= age <= LARGEST))
            and (last is None or isinstance(last, int))
            and (key is None or isinstance(key, str))
        ):
            raise ValueError(f"not a stored Keep: {value!r}")
        return cls(age=None if age is None else timedelta(milliseconds=age), last=last, key=key)


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


@dataclass(frozen=True, slots=True, init=False)
class Retention(Setting):
    """How long finished jobs are kept, per outcome.

    Each of `completed` and `failed` is an age (`"7d"`, a `timedelta`), a number of jobs, or a
    `Keep`. An outcome that is not given says nothing: a less specific level decides.

    ```python
    Retention(completed="1h", failed=1000)
    Retention(failed=Keep(last=5, key="data.customer"))
    ```
    """

    name: ClassVar[str] = "retention"
    completed: Keep | None
    failed: Keep | None

    def __init__(
        self, *, completed: KeepLike | None = None, failed: KeepLike | None = None
    ) -> None:
        if completed is None and failed is None:
            raise ValueError("Retention() says nothing: give completed=…, failed=… or both")
        object.__setattr__(self, "completed", None if completed is None else as_keep(completed))
        object.__setattr__(self, "failed", None if failed is None else as_keep(failed))

    def of(self, outcome: Outcome) -> Keep | None:
        """What is said about this outcome; None: nothing."""
        return self.completed if outcome == "completed" else self.failed

    def encode(self) -> Json:
        """One stored `Keep` per outcome that is spoken of."""
        return {
            outcome: keep.encode() for outcome in OUTCOMES if (keep := self.of(outcome)) is not None
        }

    @classmethod
    def decode(cls, value: Json) -> Self:
        """Read what `encode` wrote; `ValueError` for anything else."""
        if not isinstance(value, dict) or not value.keys() <= set(OUTCOMES):
            raise ValueError(f"not a stored Retention: {value!r}")
        return cls(**{outcome: Keep.decode(keep) for outcome, keep in value.items()})

    @classmethod
    def project(cls, live: Sequence[Said[Self]]) -> Mapping[str, str]:
        """One rule per outcome, as the scripts read it: the most specific value that speaks.

        Format: `1:<count or -1>:<age ms or -1>:<level>:<since ms>:<text>:<key or empty>`.
        """
        fields: dict[str, str] = {}
        for outcome in OUTCOMES:
            for said in live:
                keep = said.value.of(outcome)
                if keep is not None:
                    # "0s" is as good as no job at all: it goes at the finish, as any count does.
                    count = 0 if keep.is_nothing else -1 if keep.last is None else keep.last
                    age = -1 if keep.age_ms is None else keep.age_ms
                    text = str(keep).replace(":", ";")
                    fields[outcome] = (
                        f"1:{count}:{age}:{said.level}:{said.since}:{text}:{keep.key or ''}"
                    )
                    break
        return fields
