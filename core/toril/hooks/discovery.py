"""Finding what installed distributions offer, without importing any of it."""

from __future__ import annotations

import functools
import logging
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, cast

log: Final = logging.getLogger("toril.hooks")

PLUGINS: Final = "toril.plugins"
"""Entry points of plugins."""
COMMANDS: Final = "toril.commands"
"""Entry points of sub-commands of the command line."""


@dataclass(frozen=True, slots=True)
class Offer:
    """An entry point of a distribution in `folder`. `load` imports what `value` names."""

    group: str
    name: str
    value: str
    distribution: str
    version: str
    folder: str
    load: Callable[[], Any]


def offers(group: str) -> tuple[Offer, ...]:
    """What installed distributions offer in a group, in no particular order.

    The environment is scanned once per process.
    """
    return tuple(offer for offer in _scan() if offer.group == group)


@functools.cache
def _scan() -> tuple[Offer, ...]:
    # Here, not above: it costs every `import toril` milliseconds, and most need it once or never.
    import importlib_metadata

    # It is typed in part only.
    metadata = cast(Any, importlib_metadata)
    planted = _planted_folder()
    if planted is None:
        return tuple(map(_offer, _ours(metadata.entry_points())))
    trusted = [entry for entry in sys.path if entry != planted]
    found: dict[str, tuple[Offer, ...]] = {}
    for distribution in metadata.distributions(path=trusted):
        if entries := _ours(distribution.entry_points):
            found.setdefault(distribution.name, tuple(map(_offer, entries)))
    for distribution in metadata.distributions(path=[planted]):
        if distribution.name not in found and _ours(distribution.entry_points):
            log.warning(
                "%s offers plugins or commands, but is ignored: it is in the working directory "
                "%s, which is on the path only because Python was started there",
                distribution.name,
                planted or ".",
            )
    return tuple(offer for each in found.values() for offer in each)


def _ours(entries: Iterable[Any]) -> list[Any]:
    return [entry for entry in entries if entry.group in {PLUGINS, COMMANDS}]


def _offer(entry: Any) -> Offer:
    name, version, folder = _described(entry.dist) if entry.dist else ("", "", "")
    return Offer(entry.group, entry.name, entry.value, name, version, folder, entry.load)


@functools.cache
def _described(distribution: Any) -> tuple[str, str, str]:
    """Name, version and folder. Asked once: each look parses the whole of its description."""
    metadata = distribution.metadata
    return metadata["Name"], metadata["Version"], str(distribution.locate_file(""))


def _planted_folder() -> str | None:
    """The entry of the path that is the working directory only because Python was started there.

    With `python -m` and `python -c` Python puts it first. Whoever can write there could plant the
    metadata of a plugin, which would then be imported. A folder that is on the path in its own
    right, or that Toril itself was imported from, is trusted already.
    """
    if sys.flags.safe_path or not sys.path:
        return None
    first = sys.path[0]
    try:
        here = Path.cwd().resolve()
        if Path(first).resolve() != here:
            return None
    except OSError:
        return None
    if first in sys.path[1:] or str(here) in sys.path[1:]:
        return None
    home = Path(__file__).resolve().parents[2]
    return None if home == here else first
