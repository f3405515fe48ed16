"""Plugins without which nobody removes a finished job of a queue."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Self, cast

from toril import Said, Setting
from toril.plugins import Json, Level

_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_-]*")


@dataclass(frozen=True, slots=True, init=False)
class Requires(Setting):
    """The plugins, by name, without which nobody removes a finished job of this queue.

    A process that lacks one keeps the jobs and says so; another one that runs them all does the
    sweeping. Workers of other libraries are told to keep every job that is added from then on.

    Raises `ValueError` for no name, and for what cannot be the name of a plugin.
    """

    name: ClassVar[str] = "requires"
    levels: ClassVar[tuple[Level, ...]] = ("queue",)
    plugins: tuple[str, ...]

    def __init__(self, *plugins: str) -> None:
        if not plugins:
            raise ValueError("Requires() requires nothing: give names of plugins")
        for plugin in plugins:
            if not isinstance(cast(object, plugin), str) or not _NAME.fullmatch(plugin):
                raise ValueError(f"Requires({plugin!r}): not the name of a plugin")
        object.__setattr__(self, "plugins", tuple(dict.fromkeys(plugins)))

    def __str__(self) -> str:
        return ", ".join(self.plugins)

    def encode(self) -> Json:
        """The names."""
        return list(self.plugins)

    @classmethod
    def decode(cls, value: Json) -> Self:
        """Read what `encode` wrote; `ValueError` for anything else."""
        if isinstance(value, list):
            return cls(*map(str, value))
        raise ValueError(f"not a stored Requires: {value!r}")

    @classmethod
    def project(cls, live: Sequence[Said[Self]]) -> Mapping[str, str]:
        """`plugins`: the names, with commas."""
        names = dict.fromkeys(name for said in live for name in said.value.plugins)
        return {"plugins": ",".join(names)} if names else {}
