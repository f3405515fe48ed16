"""The journal of a queue: what people did about retention there, who, and when.

Two things together: a stream of about 1,000 entries at `Q:toril:cleanup:journal`, for what was
done, and the history of the queue's settings (`Queue.settings_log`), for what was said. No content
of jobs is written to it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from operator import attrgetter
from typing import TYPE_CHECKING, Final, Protocol

from toril.plugins import Json, JsonObject, Setting, SettingEntry
from toril_plugins.retention.foreign import Foreign
from toril_plugins.retention.holds import Hold, Holds
from toril_plugins.retention.requires import Requires
from toril_plugins.retention.values import Ceiling, IdWindow, Retention

if TYPE_CHECKING:
    from toril import Queue

SCRIPT: Final = "journal"
"""The script of the cleanup plugin that writes and reads it."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One thing that was done.

    `at`: when, in milliseconds since the epoch; `what`: `hold`, `release`, `erase`, `apply`,
    `repair`, `set ceiling`, `unset retention`, `declare retention` (in code) …; `who` did it;
    `details`: what it was about, without content; of what was said also what it `was` before.
    """

    at: int
    what: str
    who: str
    details: Mapping[str, str]

    @classmethod
    def decode(cls, value: Json) -> Entry:
        """An entry as the script returns it: `[at, {field: text}]`."""
        if not isinstance(value, list) or len(value) != 2 or not isinstance(value[1], dict):
            raise ValueError(f"not an entry of the journal: {value!r}")
        at, fields = value[0], value[1]
        texts = {name: str(text) for name, text in fields.items()}
        return cls(int(str(at)), texts.pop("what", ""), texts.pop("who", ""), texts)


class Journal(Protocol):
    """The cleanup plugin's way to it, of any queue by its name."""

    async def run(self, queue: str, args: JsonObject, /) -> Json:
        """Run the script."""
        ...


def writing(what: str, who: str, **details: str) -> JsonObject:
    """Arguments for the script, to write an entry; for scripts and services of the plugin."""
    return {"write": {"what": what, "who": who, **details}}


async def note(queue: Queue, what: str, who: str, **details: str) -> None:
    """Write an entry. Raises `ConfigurationError` if the plugin `cleanup` is not in use."""
    await _journal(queue).run(queue.name, writing(what, who, **details))


async def entries(queue: Queue, limit: int = 100) -> Sequence[Entry]:
    """The newest entries, newest first. Raises `ConfigurationError`, see `note`."""
    found = await _journal(queue).run(queue.name, {"read": limit})
    done = [Entry.decode(value) for value in found] if isinstance(found, list) else []
    log = await queue.settings_log(limit=1_000)  # of all settings; ours may be rare among them
    said = [entry for one in log if one.setting in _SETTINGS for entry in _said(one)]
    return sorted((*done, *said), key=attrgetter("at"), reverse=True)[:limit]


_SETTINGS: Final[Mapping[str, type[Setting]]] = {
    kind.name: kind for kind in (Retention, Ceiling, Holds, Requires, Foreign, IdWindow)
}


def _said(one: SettingEntry) -> Iterator[Entry]:
    """What a change of a setting was: each hold that came or went, and else the whole value."""
    if one.setting == Holds.name:
        yield from _held(one)
        return
    what = "unset" if one.value is None else "set" if one.how == "set" else "declare"
    details = {"now": _text(one.setting, one.value), "was": _text(one.setting, one.before)}
    if one.level != "queue":
        details["level"] = one.level
    told = {name: text for name, text in details.items() if text}
    yield Entry(one.at, f"{what} {one.setting}", one.source, told)


def _held(one: SettingEntry) -> Iterator[Entry]:
    try:
        before, now = _holds(one.before), _holds(one.value)
    except ValueError:  # of another version
        return
    for handle, hold in now.items():
        if hold != before.get(handle):
            yield Entry(one.at, "hold", one.source, {"hold": str(hold), "why": hold.why})
    for handle, hold in before.items():
        if handle not in now:
            yield Entry(one.at, "release", one.source, {"hold": str(hold), "why": hold.why})


def _holds(value: Json) -> Mapping[str, Hold]:
    held = () if value is None else Holds.decode(value).holds
    return {hold.handle: hold for hold in held}


def _text(setting: str, value: Json) -> str:
    try:
        return "" if value is None else str(_SETTINGS[setting].decode(value))
    except ValueError:  # of another version
        return str(value)


def _journal(queue: Queue) -> Journal:
    journal: Journal = queue.app.named("retention", "journal")
    return journal
