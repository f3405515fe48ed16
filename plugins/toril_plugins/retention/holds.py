"""Holds: finished jobs that nobody removes while they stand, whatever else was said."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, ClassVar, Final, Protocol, Self, TypeAlias, cast

import msgspec

from toril import ConfigurationError, Said, Setting
from toril.plugins import Json, JsonObject, Level, as_datetime, by_this_user
from toril_plugins.retention.keep import LARGEST

if TYPE_CHECKING:
    from toril import Queue

MOST: Final = 1_000
"""Holds of one queue."""
_LONGEST: Final = 500
"""Characters of a reason, and of who gave it."""
_PATH = re.compile(r"[^\s.,]+(\.[^\s.,]+)*")

Scalar: TypeAlias = str | int | float | bool | None


@dataclass(frozen=True, slots=True)
class Hold:
    """Which jobs are held, and why. All conditions that are given apply.

    Args:
        id: the job of that id.
        name: jobs of that name.
        data: jobs whose data has these values, by path: `{"customer.id": 7}`. The number 7 and the
            text "7" are different values. A field with a space, a dot or a comma in its name
            cannot be named.
        why: the reason, for people; up to 500 characters.
        who: who wants it; None: the user of the process.
        until: when it ends; a `datetime` with a time zone. None: when it is released.
        since: when it was said; `hold` fills it in.

    Raises:
        ValueError: no condition is given, or one cannot be a condition.
        TypeError: `until` or `since` is no `datetime`, or a value no text, number or truth value.
    """

    id: str | None = None
    name: str | None = None
    data: Mapping[str, Scalar] | None = None
    why: str = ""
    who: str | None = None
    until: datetime | None = None
    since: datetime | None = None

    def __post_init__(self) -> None:
        if self.id is None and self.name is None and not self.data:
            raise ValueError("Hold() would hold everything: give id=…, name=… or data={…}")
        for what in ("id", "name", "why", "who"):
            value = getattr(self, what)
            unsaid = value is None and what != "why"
            if not (unsaid or isinstance(value, str)) or (what in {"id", "name"} and value == ""):
                raise ValueError(f"Hold({what}={value!r}): give a text")
        for text in (self.why, self.who or ""):
            if len(text) > _LONGEST:
                raise ValueError(f"Hold(): a reason has at most {_LONGEST} characters: {text:.40}…")
        if self.data is not None:
            _check_conditions(self.data)
            object.__setattr__(self, "data", dict(sorted(self.data.items())) or None)
        for what in ("until", "since"):
            object.__setattr__(self, what, _in_utc(what, getattr(self, what)))

    @property
    def conditions(self) -> JsonObject:
        """What a job has to be like, as it is stored."""
        found: JsonObject = {}
        if self.id is not None:
            found["id"] = self.id
        if self.name is not None:
            found["name"] = self.name
        if self.data is not None:
            found["data"] = [[path.split("."), value] for path, value in self.data.items()]
        return found

    @property
    def handle(self) -> str:
        """A short name for it, made from its conditions: two of the same conditions are one."""
        text = msgspec.json.encode(self.conditions)
        return hashlib.sha1(text, usedforsecurity=False).hexdigest()[:8]

    def __str__(self) -> str:
        parts = [
            f"{what} {value}" for what, value in (("id", self.id), ("name", self.name)) if value
        ]
        parts += [f"data.{path} = {_json(value)}" for path, value in (self.data or {}).items()]
        return ", ".join(parts)

    def ends(self) -> int | None:
        """When it ends, in milliseconds since the epoch."""
        return _ms(self.until)

    def encode(self) -> JsonObject:
        """The hold as JSON; `decode` reads it back."""
        more: JsonObject = {
            "why": self.why,
            "who": self.who,
            "until": self.ends(),
            "since": _ms(self.since),
        }
        return {**self.conditions, **{what: value for what, value in more.items() if value}}

    @classmethod
    def decode(cls, value: Json) -> Self:
        """Read what `encode` wrote; `ValueError` for anything else."""
        try:
            stored = msgspec.convert(value, _Stored)
            until, since = (
                None if ms is None else as_datetime(ms) for ms in (stored.until, stored.since)
            )
            data = {".".join(steps): wanted for steps, wanted in stored.data}
            return cls(stored.id, stored.name, data, stored.why, stored.who, until, since)
        except (msgspec.ValidationError, TypeError, OverflowError) as error:
            raise ValueError(f"not a stored Hold: {value!r}") from error


class _Stored(msgspec.Struct, forbid_unknown_fields=True):
    id: str | None = None
    name: str | None = None
    data: list[tuple[list[str], str | int | float | bool | None]] = []
    why: str = ""
    who: str | None = None
    until: int | None = None
    since: int | None = None


def _in_utc(what: str, moment: object) -> datetime | None:
    if moment is None:
        return None
    if not isinstance(moment, datetime):
        raise TypeError(f"Hold({what}={moment!r}): give a datetime")
    if moment.tzinfo is None:
        raise ValueError(f"Hold({what}={moment!r}): say in which time zone that is")
    return moment.astimezone(UTC)


def _ms(moment: datetime | None) -> int | None:
    return None if moment is None else round(moment.timestamp() * 1000)


def _check_conditions(data: object) -> None:
    if not isinstance(data, Mapping):
        raise TypeError(f"Hold(data={data!r}): give values by path, {{'customer.id': 7}}")
    for path, value in cast("Mapping[str, Scalar]", data).items():
        _check_condition(path, value)


def _check_condition(path: str, value: object) -> None:
    if not isinstance(cast(object, path), str) or not _PATH.fullmatch(path):
        raise ValueError(
            f"Hold(data={{{path!r}: …}}): name a field of the data, for example 'customer.id'"
        )
    said = f"Hold(data={{{path!r}: {value!r}}})"
    if not isinstance(value, Scalar):
        raise TypeError(f"{said}: a value is a text, a number, True, False or None")
    if isinstance(value, int | float) and not abs(value) <= LARGEST:
        raise ValueError(f"{said}: no such number can be compared exactly")


def _json(value: Json) -> str:
    return msgspec.json.encode(value).decode()


@dataclass(frozen=True, slots=True, init=False)
class Holds(Setting):
    """The holds of a queue, at most 1,000: jobs that match one of them are not removed.

    Held jobs beat every rule and the queue's ceiling. Toril's own remove, clean, drain and
    obliterate leave them, and say which holds stand in the way. Two of the same conditions are one;
    the later one counts. `hold` and `release` change single ones.

    Raises `ValueError` for more than 1,000.
    """

    name: ClassVar[str] = "holds"
    levels: ClassVar[tuple[Level, ...]] = ("queue",)
    holds: tuple[Hold, ...]

    def __init__(self, *holds: Hold) -> None:
        for one in cast("tuple[object, ...]", holds):
            if not isinstance(one, Hold):
                raise TypeError(f"Holds({one!r}): give holds, such as Hold(id=…, why=…)")
        known = {one.handle: one for one in holds}
        if len(known) > MOST:
            raise ValueError(f"Holds(): {len(known)} holds; a queue has at most {MOST}")
        object.__setattr__(self, "holds", tuple(known.values()))

    def __str__(self) -> str:
        return "; ".join(map(str, self.holds))

    def encode(self) -> Json:
        """The holds, in order."""
        return [one.encode() for one in self.holds]

    @classmethod
    def decode(cls, value: Json) -> Self:
        """Read what `encode` wrote; `ValueError` for anything else."""
        if isinstance(value, list):
            return cls(*map(Hold.decode, value))
        raise ValueError(f"not stored Holds: {value!r}")

    @classmethod
    def project(cls, live: Sequence[Said[Self]]) -> Mapping[str, str]:
        """`id.<id>`: the holds for that id, JSON; `list`: the others, there if there are any holds.

        `ends`: when holds end, ascending; `print`: a print of all of them; `query`: one of those
        that are not for one id. Jobs that had finished before are looked through for the latter
        whenever that changes.
        """
        holds = [one for said in live for one in said.value.holds]
        if not holds:
            return {}
        listed: dict[str, list[Json]] = {"list": []}
        for one in holds:
            field = "list" if one.id is None else f"id.{one.id}"
            listed.setdefault(field, []).append({**one.encode(), "handle": one.handle})
        fields = {field: _json(some) for field, some in listed.items()}
        fields["print"] = _print(holds)
        ends = sorted({end for one in holds if (end := one.ends()) is not None})
        if ends:
            fields["ends"] = ",".join(map(str, ends))
        queries = [one for one in holds if one.id is None]
        if queries:
            fields["query"] = _print(queries)
        return fields


def _print(holds: Sequence[Hold]) -> str:
    """The same for the same holds, in whichever order, but for who wants them, and why."""
    text = ",".join(sorted(f"{one.handle}:{one.ends()}" for one in holds))
    return hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest()


class HoldKeeper(Protocol):
    """Brings the finished jobs of a queue in line with its holds; the cleanup plugin's."""

    def now(self) -> datetime:
        """The time."""
        ...

    async def apply(self, queue: str, /, *, ids: Sequence[str] = ()) -> None:
        """Hold and release what is to be. `ids`: only these jobs are to be held."""
        ...


async def hold(queue: Queue, hold: Hold) -> Hold:
    """Hold the jobs that match; those that have finished already are held when this returns.

    Says the queue's `Holds` anew, so that others who hold or release at the same time do not get
    lost, and the journal tells of it. Where some other hold has the same conditions it is replaced.

    Args:
        queue: the queue.
        hold: what is held, and why.

    Returns:
        The hold as it stands, with who wants it, and since when.

    Raises:
        ValueError: the queue has 1,000 holds.
        ConfigurationError: the plugin `cleanup` is not in use.
    """
    if not isinstance(cast(object, hold), Hold):
        raise TypeError(f"hold(queue, {hold!r}): give a Hold")
    who = hold.who or by_this_user("hold")
    new: list[Hold] = []

    def with_it(before: Holds | None) -> Holds:
        new[:] = [replace(hold, who=who, since=_keeper(queue).now())]
        return Holds(*(before.holds if before else ()), *new)

    await queue.change(Holds, with_it, source=who)
    await _keeper(queue).apply(queue.name, ids=() if hold.id is None else (hold.id,))
    return new[0]


async def release(queue: Queue, hold: Hold | str, *, who: str | None = None) -> Hold | None:
    """Take back a hold; jobs that nothing else holds are subject to the rules again.

    About such jobs is asked anew: they go, if a rule says so, with the next sweep.

    Args:
        queue: the queue.
        hold: the hold, of which only the conditions count; or its `handle`.
        who: who releases it; None: the user of the process.

    Returns:
        The hold that was taken back; None if there was none.

    Raises:
        ConfigurationError: the plugin `cleanup` is not in use.
    """
    if not isinstance(cast(object, hold), str | Hold):
        raise TypeError(f"release(queue, {hold!r}): give a Hold or its handle")
    handle = hold if isinstance(hold, str) else hold.handle
    who = who or by_this_user("release")
    found: list[Hold] = []

    def without_it(before: Holds | None) -> Holds | None:
        left = [one for one in before.holds if one.handle != handle] if before else []
        found[:] = [one for one in before.holds if one.handle == handle] if before else []
        return Holds(*left) if left else None

    await queue.change(Holds, without_it, source=who)
    if not found:
        return None
    await _keeper(queue).apply(queue.name)
    return found[0]


def _keeper(queue: Queue) -> HoldKeeper:
    try:
        keeper: HoldKeeper = queue.app.named("retention", "holds")
    except ConfigurationError as error:
        raise ConfigurationError(
            "no plugin in use declares the setting Holds: is `cleanup` blocked?"
        ) from error
    return keeper
