"""Settings as people give them: checked, and noted with who said them, where and when.

What they mean, and which of several holds, only their plugins know.
"""

from __future__ import annotations

import getpass
import socket
from collections.abc import Iterable, Mapping
from typing import Any, cast

from toril.errors import ConfigurationError
from toril.hooks.configuration import did_you_mean
from toril.setting import Level, Said, Setting


def say(level: Level, settings: Iterable[object], source: str, now: int) -> tuple[Said[Any], ...]:
    """`settings` as said at a level.

    Args:
        level: where they were said.
        settings: what was given at one noun.
        source: what said it, for people: `queue.add`, `app.worker` on a host.
        now: when, in milliseconds since the epoch.

    Raises:
        TypeError: something is not a setting, or two of one kind are given at once.
        ConfigurationError: a setting that cannot be said at this level.
    """
    said: dict[type[Setting], Said[Any]] = {}
    for value in settings:
        if not isinstance(value, Setting):
            hint = f"; write {value.__name__}(…)" if isinstance(value, type) else ""
            raise TypeError(f"{source}: {value!r} is not a setting{hint}")
        if type(value) in said:
            raise TypeError(f"{source}: two settings of kind {type(value).__name__}; give one")
        if level not in value.levels:
            raise ConfigurationError(
                f"{source}: {type(value).__name__} cannot be said at level {level!r}, only at "
                f"{' and '.join(map(repr, value.levels))}"
            )
        said[type(value)] = Said(value, level, source, now)
    return tuple(said.values())


def check_declared(said: Iterable[Said[Any]], declared: Mapping[str, type[Setting]]) -> None:
    """Refuse what no plugin in use would heed. `declared`: see `PluginSet.settings`.

    Raises:
        ConfigurationError: the plugin that declares the setting is not in use.
    """
    for each in said:
        kind = cast("type[Setting]", type(each.value))
        if declared.get(getattr(kind, "name", "")) is not kind:
            known = sorted(other.__name__ for other in declared.values())
            raise ConfigurationError(
                f"{each.source}: no plugin in use declares the setting {kind.__name__}"
                f"{did_you_mean(kind.__name__, [name for name in known if name != kind.__name__])}"
                " (`toril plugins ls` shows which are in use and why others are not)"
            )


def on_this_host(what: str) -> str:
    """`what`, and the host it runs on: the source of what a worker says."""
    return f"{what} on {socket.gethostname()}"


def by_this_user(what: str) -> str:
    """`what`, and who runs it: the source of what a person says with a command."""
    try:
        user = getpass.getuser()
    except (OSError, KeyError):  # no name for this user id, as in many containers
        user = "unknown"
    return f"{what} by {user} on {socket.gethostname()}"
