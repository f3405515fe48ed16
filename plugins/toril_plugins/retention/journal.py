"""The journal of a queue: what people did about retention there, who, and when.

A stream of about 1,000 entries at `Q:toril:cleanup:journal`. No content of jobs is written to it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Protocol

from toril.plugins import Json, JsonObject

if TYPE_CHECKING:
    from toril import Queue

SCRIPT: Final = "journal"
"""The script of the cleanup plugin that writes and reads it."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One thing that was done.

    `at`: when, in milliseconds since the epoch; `what`: `hold`, `release`, `erase`, `apply`,
    `repair` …; `who` did it; `details`: what it was about, without content.
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
    return [Entry.decode(value) for value in found] if isinstance(found, list) else []


def _journal(queue: Queue) -> Journal:
    journal: Journal = queue.app.named("retention", "journal")
    return journal
