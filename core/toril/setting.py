"""Settings: typed values that plugins declare and people give at a level.

Core knows where a setting was said and how it is stored; what it means, only its plugin knows.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Generic, Literal, Self, TypeVar

from toril.types import Json

Level = Literal["job", "flow", "template", "queue", "worker", "application"]
"""Where a setting was said, most specific first."""

LEVELS: tuple[Level, ...] = ("job", "flow", "template", "queue", "worker", "application")
OWN_LEVELS: tuple[Level, ...] = LEVELS[:3]
"""Said for one job (or its flow or template): stored with the job."""
LIVE_LEVELS: tuple[Level, ...] = LEVELS[3:]
"""Said for all jobs of a queue: stored with the queue, and a change counts at once."""


class Setting:
    """Base class of a setting: a frozen dataclass that knows its JSON form.

    A plugin declares one with `registry.setting(cls)`. `name` is the key under which its values
    are stored, and unique among all plugins. `levels` are those at which it can be said.
    """

    name: ClassVar[str]
    levels: ClassVar[tuple[Level, ...]] = LEVELS

    def encode(self) -> Json:
        """The value as JSON; `decode` reads it back."""
        raise NotImplementedError

    @classmethod
    def decode(cls, value: Json) -> Self:
        """The value that `encode` wrote. Raises `ValueError` for anything else."""
        raise NotImplementedError

    @classmethod
    def project(cls, live: Sequence[Said[Any]]) -> Mapping[str, str]:  # noqa: ARG003 - for overriding
        """Fields of the queue's `meta` that the plugin's Lua reads, from all live values.

        Called whenever a live value changes; `live` is most specific first. The fields are stored
        in the same atomic step as the value, each under `toril.<setting name>.<field>`; a field
        that is left out is deleted.
        """
        return {}


S = TypeVar("S", bound=Setting)


@dataclass(frozen=True, slots=True)
class Said(Generic[S]):
    """A setting together with who said it, where and when."""

    value: S
    level: Level
    source: str
    """What said it: `queue.add`, `app.worker` on a host, a command run by a user, …"""
    since: int
    """When it was said, in milliseconds since the epoch."""
    replaced: Said[S] | None = None
    """What others had said at the same level in their code until then, if it was something else."""
