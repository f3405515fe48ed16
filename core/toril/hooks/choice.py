"""Which plugins are wanted: `App(plugins=…, block=…)`, `TORIL_PLUGINS`, `TORIL_PLUGINS_BLOCK`."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from toril.errors import ConfigurationError
from toril.hooks.configuration import did_you_mean

REST: Final = "*"
"""In a list of plugins: all other installed ones, in their usual order."""


@dataclass(frozen=True, slots=True)
class Choice:
    """The plugins wanted.

    `listed` are names of installed plugins and plugins themselves, in order; None: every installed
    one. `"*"` among them stands for all others. `blocked` names are never used.
    """

    listed: tuple[object, ...] | None = None
    blocked: frozenset[str] = frozenset()
    source: str = "App(plugins=…)"

    @classmethod
    def make(
        cls,
        plugins: Sequence[object] | None,
        block: Iterable[str],
        environ: Mapping[str, str] | None = None,
    ) -> Choice:
        """What is asked for in code; where that says nothing, in the environment.

        `TORIL_PLUGINS` unset: all; empty: none; else exactly those, separated by commas.
        `TORIL_PLUGINS_BLOCK` is added to `block`.
        """
        environ = os.environ if environ is None else environ
        if isinstance(block, str):
            raise ConfigurationError(f"block= is a sequence of names, not {block!r}")
        if isinstance(plugins, str):
            raise ConfigurationError(f"plugins= is a sequence of plugins, not {plugins!r}")
        blocked = frozenset((*block, *_names(environ.get("TORIL_PLUGINS_BLOCK", ""))))
        if plugins is not None:
            return cls(tuple(plugins), blocked)
        listed = environ.get("TORIL_PLUGINS")
        if listed is not None:
            return cls(_names(listed), blocked, "TORIL_PLUGINS")
        return cls(None, blocked)

    def objects(self) -> list[object]:
        """The plugins that were given themselves."""
        return [each for each in self.listed or () if not isinstance(each, str)]

    def check_names(self, known: Iterable[str]) -> None:
        """Raise `ConfigurationError` if a name is listed that no installed plugin has."""
        known = sorted(known)
        for name in self.listed or ():
            if isinstance(name, str) and name != REST and name not in known:
                raise ConfigurationError(
                    f"{self.source}: no plugin named {name!r} is installed"
                    f"{did_you_mean(name, known)}"
                )

    def place(self, name: str, given: object) -> tuple[int, ...] | None:
        """Where a plugin stands in the order asked for; None if it is not wanted.

        `given` is the plugin itself if it was passed as such, else None.
        """
        if self.listed is None:
            return ()
        for index, each in enumerate(self.listed):
            if each is given if given is not None else each == name:
                return (index,)
        return (self.listed.index(REST),) if REST in self.listed else None


def _names(text: str) -> tuple[str, ...]:
    return tuple(name for part in text.split(",") if (name := part.strip()))
