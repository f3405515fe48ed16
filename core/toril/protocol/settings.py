"""Live settings of a queue: what was said for all of its jobs, stored in its `meta` hash.

`toril.said.<setting>` holds, as JSON, one value per live level:
`{level: {"v": value, "s": source, "t": since, "how": "set" | "declared"}}`. What a plugin's Lua
reads is its projection, `toril.<setting>.<field>`, written in the same atomic step.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Generic, NotRequired, TypedDict, TypeVar

import msgspec

from toril.connection.call import Call, Procedure, Read, Resend
from toril.errors import ConfigurationError
from toril.protocol.settings_log import How, SettingEntry, entry_fields
from toril.setting import LIVE_LEVELS, Level, Said, Setting
from toril.types import Json

S = TypeVar("S", bound=Setting)


class _Entry(TypedDict):
    v: Any  # JSON; msgspec does not decode the union that `Json` is
    s: str
    t: int
    how: How
    over: NotRequired[_Over]


class _Over(TypedDict):
    """What was declared before, by somebody who does not agree."""

    v: Any
    s: str
    t: int


@dataclass(frozen=True, slots=True)
class SettingChange(Generic[S]):
    """What became of a live value that somebody gave.

    `applied` is False if it stands aside for what `standing` says. `replaced` is the different
    value that stood there before; if both were declared, two processes disagree.
    """

    applied: bool
    standing: Said[S] | None
    replaced: Said[S] | None = None

    @property
    def disagreement(self) -> Said[S] | None:
        """What another process declares, if this one replaced it."""
        return self.standing.replaced if self.standing and self.replaced else None


def read_live(queue: str, kind: type[S]) -> Read[tuple[Said[S], ...]]:
    """The live values of a setting, most specific first.

    Raises `ConfigurationError` if what is stored is not one.
    """

    def parse(replies: list[Any]) -> tuple[Said[S], ...]:
        return _said(queue, kind, _stored(queue, kind, replies[0]))

    return Read((("HGET", f"{queue}:meta", _field(kind)),), parse)


def read_all_live(
    queues: Sequence[str], kinds: Sequence[type[Setting]]
) -> Read[list[dict[type[Setting], tuple[Said[Any], ...]]]]:
    """The live values of several settings, queue by queue, each most specific first.

    Kinds of which nothing is said are left out. Raises `ConfigurationError` if what is stored is
    not one.
    """
    fields = [_field(kind) for kind in kinds]

    def parse(replies: list[Any]) -> list[dict[type[Setting], tuple[Said[Any], ...]]]:
        return [
            {
                kind: said
                for kind, raw in zip(kinds, stored, strict=True)
                if (said := _said(queue, kind, _stored(queue, kind, raw)))
            }
            for queue, stored in zip(queues, replies, strict=True)
        ]

    return Read(tuple(("HMGET", f"{queue}:meta", *fields) for queue in queues), parse)


def set_live(
    queue: str,
    kind: type[S],
    level: Level,
    value: S | None,
    *,
    how: How,
    source: str,
    now: int,
) -> Procedure[SettingChange[S]]:
    """Say a setting for a whole queue, or with `value` None no longer say it: `change_live`."""
    return change_live(queue, kind, level, lambda _: value, how=how, source=source, now=now)


def change_live(
    queue: str,
    kind: type[S],
    level: Level,
    change: Callable[[S | None], S | None],
    *,
    how: How,
    source: str,
    now: int,
) -> Procedure[SettingChange[S]]:
    """Say a setting for a whole queue, made from what stands, or with None no longer say it.

    What was declared never replaces, or takes back, what was set; declaring None changes nothing,
    and declaring what stands already leaves its source and time as they are.

    Args:
        queue: The key of the queue.
        kind: The class of the setting.
        level: `queue`, `worker` or `application`.
        change: Makes what is said from what stood at that level, None if nothing did. Called again
            if somebody else changed it meanwhile.
        how: `set` at run time or `declared` in code.
        source: Who says it, for people to read.
        now: The time, in milliseconds since the epoch.

    Raises:
        ConfigurationError: Another level's stored value cannot be read.
    """
    if level not in LIVE_LEVELS:
        raise ConfigurationError(f"{kind.name!r} cannot be said for a queue at level {level!r}")
    while True:
        raw: bytes | None = yield _raw(queue, kind)
        before = _stored(queue, kind, raw)
        old = before.get(level)
        after: dict[Level, _Entry] = {
            name: entry for name, entry in before.items() if name != level
        }
        others = _said(queue, kind, after)
        standing = _tolerant(kind, level, old)
        value = change(None if standing is None else standing.value)
        if how == "declared" and (value is None or (old is not None and old["how"] == "set")):
            return SettingChange(applied=False, standing=standing)
        if value is None:
            said = others
        else:
            # As it will be read back: a tuple, say, comes back as a list.
            encoded: Json = msgspec.json.decode(msgspec.json.encode(value.encode()))
            if how == "declared" and old is not None and old["v"] == encoded:
                return SettingChange(applied=True, standing=standing)
            after[level] = {"v": encoded, "s": source, "t": now, "how": how}
            if how == "declared" and level != "queue" and old is not None and standing is not None:
                after[level]["over"] = {"v": old["v"], "s": old["s"], "t": old["t"]}
            said = _said(queue, kind, after)
        earlier = _projected(kind, others if standing is None else _ordered((*others, standing)))
        projection = _projected(kind, said)
        stored = yield _compare_and_set(
            queue,
            field=_field(kind),
            expected="" if raw is None else raw.decode(),
            value=msgspec.json.encode(after).decode() if after else "",
            write=projection,
            # Only what the earlier projection wrote: a plugin may keep fields of its own there.
            delete=[field for field in earlier if field not in projection],
            event=_disagreement(kind, level, after.get(level)) if how == "declared" else {},
            entry=entry_fields(
                SettingEntry(
                    now,
                    kind.name,
                    level,
                    how,
                    source,
                    after[level]["v"] if value is not None else None,
                    old["v"] if old else None,
                )
            )
            if old is not None or value is not None
            else {},
        )
        if stored:
            new = next((one for one in said if one.level == level), None)
            changed = standing is not None and (new is None or new.value != standing.value)
            return SettingChange(applied=True, standing=new, replaced=standing if changed else None)


def _field(kind: type[Setting]) -> str:
    return f"toril.said.{kind.name}"


def _raw(queue: str, kind: type[Setting]) -> Read[bytes | None]:
    return Read((("HGET", f"{queue}:meta", _field(kind)),), lambda replies: replies[0])


def _stored(queue: str, kind: type[Setting], raw: bytes | None) -> dict[Level, _Entry]:
    if raw is None:
        return {}
    try:
        return msgspec.json.decode(raw, type=dict[Level, _Entry])
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise ConfigurationError(
            f"meta field {_field(kind)!r} of queue {queue!r} cannot be read: {error}"
        ) from error


def _said(queue: str, kind: type[S], stored: Mapping[Level, _Entry]) -> tuple[Said[S], ...]:
    try:
        return _ordered(_decoded(kind, level, entry) for level, entry in stored.items())
    except ValueError as error:
        raise ConfigurationError(
            f"meta field {_field(kind)!r} of queue {queue!r} cannot be read: {error}"
        ) from error


def _decoded(kind: type[S], level: Level, entry: _Entry) -> Said[S]:
    over = entry.get("over")
    replaced = None
    if over is not None:
        with suppress(ValueError):  # it counts no more, and need not be readable
            replaced = Said(kind.decode(over["v"]), level, over["s"], over["t"])
    return Said(kind.decode(entry["v"]), level, entry["s"], entry["t"], replaced)


def _disagreement(kind: type[Setting], level: Level, entry: _Entry | None) -> dict[str, str]:
    """The fields of the event that tells of it; none if nobody disagrees."""
    over = None if entry is None else entry.get("over")
    if entry is None or over is None:
        return {}
    return {
        "setting": kind.name,
        "level": level,
        "value": msgspec.json.encode(entry["v"]).decode(),
        "source": entry["s"],
        "instead": msgspec.json.encode(over["v"]).decode(),
        "of": over["s"],
    }


def _tolerant(kind: type[S], level: Level, entry: _Entry | None) -> Said[S] | None:
    """The value that stood at a level; None also if it is garbled, so that it can be replaced."""
    try:
        return None if entry is None else _decoded(kind, level, entry)
    except ValueError:
        return None


def _ordered(said: Iterable[Said[S]]) -> tuple[Said[S], ...]:
    return tuple(sorted(said, key=lambda one: LIVE_LEVELS.index(one.level)))


def _projected(kind: type[S], said: tuple[Said[S], ...]) -> dict[str, str]:
    return {f"toril.{kind.name}.{field}": value for field, value in kind.project(said).items()}


def _compare_and_set(queue: str, **request: str | Mapping[str, str] | list[str]) -> Call[bool]:
    # Sent again although it was stored, it finds another value, and is planned anew.
    arguments = (msgspec.msgpack.encode(request),)
    return Call("setting", (queue,), arguments, bool, Resend.ALWAYS)
