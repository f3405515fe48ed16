"""Asking the plan hooks before something is saved or removed, and joining their answers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

from toril.errors import ConfigurationError, PluginError, Reject
from toril.hooks.function import HookFunction
from toril.hooks.plugin_set import SAVE
from toril.options import POLICY_OPTION
from toril.setting import LEVELS, Said
from toril.snapshots import Draft, Removal, SavePlan
from toril.types import Json, JsonObject

Functions = Callable[[str], Sequence[HookFunction]]
"""The functions of active plugins for a hook, in the order in which they are asked."""

_REMOVE: Final = "toril_plan_remove"

_NOT_A_PLUGINS: Final = frozenset({"jobId", "parent", "timestamp", *POLICY_OPTION.values()})
"""Options that decide which job this is and where it belongs."""


@dataclass(frozen=True, slots=True)
class PlannedJob:
    """A draft with what the plugins added. `own` is the hash field `toril`, None: there is none."""

    draft: Draft
    own: JsonObject | None


def plan_save(functions: Sequence[HookFunction], draft: Draft) -> PlannedJob:
    """Ask the plugins about a draft.

    Raises:
        Reject: A plugin refuses it; `plugin` and `item` name both.
        PluginError: A plugin broke, or two plugins contradict each other.
        ConfigurationError: A setting was said for it and no plugin stores that.
    """
    set_by: dict[str, HookFunction] = {}
    settings: list[Said[Any]] = []
    fields: dict[str, Json] = {}
    for function in functions:
        try:
            plan = function.ask(draft=draft)
        except Reject as reject:
            reject.plugin = function.plugin
            reject.item = draft.name
            reject.add_note(f"refused by plugin {function.plugin!r}: {_item(draft)}")
            raise
        except PluginError as error:
            error.add_note(f"while planning {_item(draft)}")
            raise
        if plan is None:
            continue
        if not isinstance(plan, SavePlan):
            raise PluginError(
                f"plugin {function.plugin!r} ({function.version}) answered {SAVE} with {plan!r}, "
                f"not with a SavePlan: {_item(draft)}",
                plugin=function.plugin,
                hook=SAVE,
            )
        if plan.opts:
            draft = _with_options(function, draft, plan, set_by)
        settings += [said for said in plan.settings if said not in settings]
        if plan.field is not None:
            fields[function.plugin] = plan.field
    _check_kept(draft, settings)
    own: JsonObject = {}
    if settings:
        own["said"] = _stored(settings)
    if fields:
        own["plugins"] = dict(fields)
    return PlannedJob(draft, own or None)


def _check_kept(draft: Draft, settings: Sequence[Said[Any]]) -> None:
    """Refuse what was said for a job if no plugin stores it: it would be forgotten in silence."""
    for said in draft.said:
        if said not in settings:
            raise ConfigurationError(
                f"{said.source}: {said.value!r} is said for one job, and no plugin in use stores "
                f"that with a job; 'persistence' does ({_item(draft)}). Use that plugin, or say "
                "this for the queue, a worker or the App"
            )


def _with_options(
    function: HookFunction, draft: Draft, plan: SavePlan, set_by: dict[str, HookFunction]
) -> Draft:
    opts = dict(draft.opts)
    for name, value in (plan.opts or {}).items():
        other = set_by.get(name)
        if name in _NOT_A_PLUGINS:
            problem = f"plugin {function.plugin!r} must not set the option {name!r}"
        elif other is not None and opts[name] != value:
            problem = (
                f"plugins {other.plugin!r} ({other.version}) and {function.plugin!r} "
                f"({function.version}) both set the option {name!r}, to different values"
            )
        else:
            opts[name] = value
            set_by[name] = function
            continue
        raise PluginError(f"{problem}: {_item(draft)}", plugin=function.plugin, hook=SAVE)
    return replace(draft, opts=opts)


def _stored(settings: Sequence[Said[Any]]) -> JsonObject:
    """The settings as they are stored with a job: by name, most specific first."""
    stored: dict[str, list[Json]] = {}
    for said in sorted(settings, key=lambda said: LEVELS.index(said.level)):
        stored.setdefault(said.value.name, []).append(
            {"v": said.value.encode(), "l": said.level, "s": said.source, "t": said.since}
        )
    return dict(stored)


def _item(draft: Draft) -> str:
    return f"job {draft.name!r} for queue {draft.queue!r}"


def plan_removal(functions: Functions, removal: Removal) -> None:
    """Ask every plugin whether an operator may remove these jobs.

    Raises:
        Reject: A plugin refuses.
        PluginError: A plugin broke.
    """
    for function in functions(_REMOVE):
        try:
            function.ask(removal=removal)
        except Reject as reject:
            reject.plugin = function.plugin
            reject.item = removal.ids[0] if removal.ids else removal.queue
            raise
