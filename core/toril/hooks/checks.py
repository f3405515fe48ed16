"""Checking what a plugin implements, before any of it is used.

pluggy registers a misspelt hook, an undecorated function and an asynchronous function in a place
where nobody awaits it without a word; here each of them is an error that says what to do.
"""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import Any, Final, TypeAlias

import pluggy

from toril.hooks.configuration import did_you_mean
from toril.hooks.markers import PREFIX

_PLAIN_ONLY: Final = ("toril_plan_", "toril_register")
_TYPO: Final = 0.85
"""From which similarity on an unknown hook is a slip of the pen, and not another plugin's hook."""

Specified: TypeAlias = "dict[str, tuple[str, ...]]"
"""The arguments of each hook."""


class Waiting(Exception):
    """The plugin needs something that another one would bring."""


@dataclass(frozen=True, slots=True)
class Found:
    """An implementation as found in a plugin."""

    hook: str
    function: Callable[..., object]
    options: Mapping[str, Any]

    @property
    def arguments(self) -> list[inspect.Parameter]:
        """What the function takes."""
        return list(inspect.signature(self.function).parameters.values())


def _attributes(owner: object) -> Iterator[tuple[str, object]]:
    """The attributes of a plugin without running its properties."""
    for name in dir(owner):
        value: object = inspect.getattr_static(owner, name, None)
        if not name.startswith("__") and not isinstance(value, property):
            yield name, getattr(owner, name, None)


def implementations(plugin: object, manager: pluggy.PluginManager) -> list[Found]:
    """The decorated functions of a plugin."""
    found: list[Found] = []
    for name, function in _attributes(plugin):
        options = manager.parse_hookimpl_opts(plugin, name) if callable(function) else None
        if options is not None and callable(function):
            found.append(Found(options.get("specname") or name, function, dict(options)))
    return found


def specifications(module: ModuleType | type, manager: pluggy.PluginManager) -> Specified:
    """The hooks that a module specifies, with their arguments.

    Raises:
        TypeError: for a specification that Toril could not honour.
    """
    found: Specified = {}
    for name, function in _attributes(module):
        options = manager.parse_hookspec_opts(module, name)
        if options is None or not callable(function):
            continue
        if not name.startswith(PREFIX):
            raise TypeError(f"the hook {name!r} must begin with {PREFIX!r}")
        if options["firstresult"] or options["historic"]:
            raise TypeError(
                f"the hook {name!r} may be neither `firstresult` nor `historic`: "
                "every plugin is asked on its own"
            )
        parameters = inspect.signature(function).parameters.values()
        if any(each.default is not each.empty for each in parameters):
            raise TypeError(f"the hook {name!r} may have no defaults")
        found[name] = tuple(each.name for each in parameters if each.name != "self")
    if not found:
        raise TypeError(f"{module.__name__} specifies no hooks (@hookspec)")
    return found


def check(found: Found, specified: Specified, resting: Sequence[str] = ()) -> None:
    """Refuse an implementation that could not work. `resting`: plugins that are not in use.

    Raises:
        Waiting: its hook may be that of another plugin.
        TypeError: it is wrong.
    """
    hook = found.hook
    if hook not in specified:
        near = difflib.get_close_matches(hook, specified, n=1, cutoff=_TYPO)
        if near:
            raise TypeError(f"there is no hook {hook!r}; did you mean {near[0]!r}?")
        among = f"; not in use: {', '.join(resting)}" if resting else ""
        raise Waiting(f"no plugin in use specifies the hook {hook!r}{among}")
    if found.options.get("wrapper") or found.options.get("hookwrapper"):
        raise TypeError(f"{hook} takes no wrapper: every plugin is called on its own")
    function = inspect.unwrap(found.function)
    if inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function):
        raise TypeError(f"{hook} must return its answer, not yield it")
    if hook.startswith(_PLAIN_ONLY) and inspect.iscoroutinefunction(function):
        raise TypeError(f"{hook} must be a plain function: it is called where nobody can wait")
    for argument in found.arguments:
        if argument.kind is not argument.POSITIONAL_OR_KEYWORD:
            raise TypeError(f"{hook} must name its arguments; it has {str(argument)!r}")
        if argument.name not in specified[hook]:
            offered = ", ".join(specified[hook])
            raise TypeError(
                f"{hook} has no argument {argument.name!r}"
                f"{did_you_mean(argument.name, specified[hook])}; it has: {offered}"
            )
        if argument.default is not argument.empty:
            raise TypeError(f"{hook}: argument {argument.name!r} may have no default")


def check_undecorated(plugin: object, specified: Specified, manager: pluggy.PluginManager) -> None:
    """Refuse a plugin with a function named as a hook but not marked as one.

    Raises:
        TypeError: naming the function.
    """
    for name, function in _attributes(plugin):
        if not name.startswith(PREFIX) or not inspect.isroutine(function):
            continue
        if (
            manager.parse_hookimpl_opts(plugin, name) is not None
            # A specification may live in the same module.
            or getattr(function, f"{manager.project_name}_spec", None) is not None
        ):
            continue
        if difflib.get_close_matches(name, specified, n=1, cutoff=_TYPO):
            raise TypeError(f"the function {name!r} lacks @hookimpl")
