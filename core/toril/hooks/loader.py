"""Loading the plugins of an App: find, choose, import, register, check, put in order.

One plugin that is broken, however, stops neither the others nor the App, unless it is declared
required. Whatever is not used is listed with the reason.
"""

from __future__ import annotations

import inspect
import logging
import types
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, cast

import pluggy

from toril.hooks import checks, discovery, hookspecs
from toril.hooks.checks import Waiting
from toril.hooks.choice import Choice
from toril.hooks.configuration import Configuration
from toril.hooks.function import describe
from toril.hooks.markers import PROJECT
from toril.hooks.plugin_set import OWN_DISTRIBUTION, PluginInfo, PluginSet, Status
from toril.hooks.registry import NAME, RESERVED, Contribution, Registry

log: Final = logging.getLogger("toril.hooks")


@dataclass(slots=True)
class Candidate:
    """A plugin on its way to being used. `given` is the plugin itself if it was passed as such."""

    name: str
    distribution: str
    version: str
    origin: str
    load: Callable[[], object]
    given: object = None
    place: tuple[int, ...] = ()
    status: Status = "active"
    error: str | None = None
    plugin: object = None
    registry: Registry = field(default_factory=lambda: Registry("", ""))
    implemented: list[checks.Found] = field(default_factory=list["checks.Found"])

    @property
    def label(self) -> str:
        """The distribution and its version, or where it comes from."""
        return f"{self.distribution} {self.version}".strip() or self.origin

    @property
    def order(self) -> tuple[object, ...]:
        """As configured, else alphabetical, Toril's own last."""
        return (self.place, self.distribution == OWN_DISTRIBUTION, self.name, self.distribution)

    def refuse(self, status: Status, error: str, cause: BaseException | None = None) -> None:
        """Put it out of use, and say so."""
        self.status, self.error = status, error
        if status not in ("blocked", "off"):
            log.error(
                "plugin %r (%s) is %s: %s", self.name, self.label, status, error, exc_info=cause
            )


def load_plugins(
    plugins: Sequence[object] | None = None,
    block: Iterable[str] = (),
    configuration: Configuration | None = None,
    *,
    environ: Mapping[str, str] | None = None,
) -> PluginSet:
    """Load the plugins of one App.

    Args:
        plugins: what is wanted, in order: names of installed plugins, and plugins themselves
            (modules, classes, objects); `"*"` stands for all other installed ones. None: what
            `TORIL_PLUGINS` says, else all installed ones.
        block: names of plugins that are not to be used; `TORIL_PLUGINS_BLOCK` adds to it.
        configuration: which plugins are required, and the options of each.
        environ: the environment variables; None: those of this process.

    Raises:
        ConfigurationError: a name that no plugin has, or a required plugin that cannot be used.
    """
    configuration = configuration or Configuration()
    choice = Choice.make(plugins, block, environ)
    candidates = _candidates(choice)
    names = {candidate.name for candidate in candidates}
    choice.check_names(names)
    configuration.check_names(names)

    _choose(candidates, choice)
    candidates.sort(key=lambda candidate: candidate.order)
    for candidate in _active(candidates):
        _load(candidate, configuration)
    manager = pluggy.PluginManager(PROJECT)
    for candidate in _active(candidates):
        _register(candidate, manager)
    _settle_names(candidates)
    specified = _check_implementations(candidates, manager)

    # pluggy calls what was registered last first.
    for candidate in reversed(_active(candidates)):
        try:
            manager.register(candidate.plugin, candidate.name)
        except (Exception, SystemExit) as error:  # noqa: BLE001 - guard place: foreign objects
            twice = manager.is_registered(candidate.plugin)
            candidate.refuse("conflict" if twice else "broken", describe(error))
    active = _active(candidates)
    loaded = PluginSet(
        manager,
        [_info(candidate) for candidate in candidates],
        hooks=frozenset(specified),
        contributions=[each for one in active for each in one.registry.contributions],
        chunks=tuple(chunk for candidate in active for chunk in candidate.registry.chunks),
        configuration=configuration,
    )
    loaded.check_required()
    return loaded


def _active(candidates: list[Candidate]) -> list[Candidate]:
    return [candidate for candidate in candidates if candidate.status == "active"]


def _info(candidate: Candidate) -> PluginInfo:
    return PluginInfo(
        candidate.name,
        candidate.distribution,
        candidate.version,
        candidate.status,
        tuple(sorted({found.hook for found in candidate.implemented})),
        candidate.origin,
        candidate.error,
    )


def _candidates(choice: Choice) -> list[Candidate]:
    found = [_installed(offer) for offer in discovery.offers(discovery.PLUGINS)]
    return [*(_given(plugin) for plugin in choice.objects()), *found]


def _installed(offer: discovery.Offer) -> Candidate:
    origin = f"{offer.value} in {offer.folder}"
    return Candidate(offer.name, offer.distribution, offer.version, origin, offer.load)


def _given(plugin: object) -> Candidate:
    kind = plugin if isinstance(plugin, (type, types.ModuleType)) else type(plugin)
    name = getattr(plugin, "toril_name", None) or kind.__name__.rpartition(".")[2]
    module = kind.__name__ if isinstance(kind, types.ModuleType) else kind.__module__
    origin = f"given in code: {module}"
    return Candidate(str(name), "", "", origin, lambda: plugin, given=plugin)


def _choose(candidates: list[Candidate], choice: Choice) -> None:
    """Settle which are wanted, and which of several of one name is used."""
    taken: dict[str, Candidate] = {}
    # One that was passed goes before an installed one of its name, ours before a stranger's.
    for candidate in sorted(
        candidates,
        key=lambda each: (
            each.given is None,
            each.distribution != OWN_DISTRIBUTION,
            each.distribution,
        ),
    ):
        place = choice.place(candidate.name, candidate.given)
        if candidate.name in choice.blocked:
            candidate.refuse("blocked", "blocked by name")
        elif place is None:
            candidate.refuse("blocked", f"not in {choice.source}")
        elif not NAME.fullmatch(candidate.name) or candidate.name in RESERVED:
            candidate.refuse("broken", f"{candidate.name!r} cannot be the name of a plugin")
        elif candidate.name in taken:
            other = taken[candidate.name]
            candidate.refuse(
                "conflict",
                f"the name {candidate.name!r} of {candidate.label} is taken by {other.label}",
            )
        else:
            candidate.place = place
            taken[candidate.name] = candidate


def _load(candidate: Candidate, configuration: Configuration) -> None:
    try:
        plugin = candidate.load()
        candidate.plugin = plugin() if isinstance(plugin, type) else plugin
        waits = inspect.getattr_static(candidate.plugin, "toril_off_until_configured", None)
    except (Exception, SystemExit) as error:  # noqa: BLE001 - guard place: foreign code is imported
        candidate.refuse("broken", describe(error), error)
    else:
        if waits and candidate.name not in configuration.tables:
            candidate.refuse("off", "it has no table in the configuration")


def _register(candidate: Candidate, manager: pluggy.PluginManager) -> None:
    """Let it say what it brings beside hooks."""
    candidate.registry = Registry(candidate.name, candidate.label)
    try:
        candidate.implemented = checks.implementations(candidate.plugin, manager)
        for found in candidate.implemented:
            if found.hook == "toril_register":
                checks.check(found, checks.specifications(hookspecs, manager))
                found.function(*[candidate.registry][: len(found.arguments)])
        for module in candidate.registry.specifications:
            checks.specifications(module, manager)
    except (Exception, SystemExit) as error:  # noqa: BLE001 - guard place: a plugin's own code
        candidate.refuse("broken", describe(error), error)


def _settle_names(candidates: list[Candidate]) -> None:
    """Put out of use a plugin that brings a name that is taken by another thing."""
    plugins = {each.name: each for each in _active(candidates)}
    taken: dict[tuple[str, str], Contribution] = {}
    # Ours first, so that a stranger cannot put a default out of use.
    for candidate in sorted(
        plugins.values(), key=lambda each: (each.distribution != OWN_DISTRIBUTION, each.order)
    ):
        for each in candidate.registry.contributions:
            other = taken.get((each.kind, each.name))
            if each.kind == "setting" and (each.name in plugins or each.name in RESERVED):
                holder = plugins.get(each.name)
                candidate.refuse(
                    "conflict",
                    f"the setting {each.name!r} of {each.distribution} has the name of "
                    + (f"a plugin of {holder.label}" if holder else "something of Toril's own"),
                )
            elif other is not None and other.value is not each.value:
                candidate.refuse(
                    "conflict",
                    f"the {each.kind} {each.name!r} of {each.distribution} is taken by "
                    f"{other.distribution}",
                )
            if candidate.status != "active":
                break
        else:
            for each in candidate.registry.contributions:
                taken.setdefault((each.kind, each.name), each)


def _check_implementations(
    candidates: list[Candidate], manager: pluggy.PluginManager
) -> checks.Specified:
    """Register all specifications, then check each implementation against them.

    A plugin put out of use takes its specifications along, so it is repeated until all is settled.
    """
    while True:
        specified, owners = _specifications(candidates, manager)
        before = len(_active(candidates))
        usable = {candidate.name for candidate in _active(candidates)}
        resting = sorted({each.name for each in candidates} - usable)
        for candidate in _active(candidates):
            try:
                needs = _needs(candidate.plugin)
                for name in needs:
                    if name not in usable:
                        raise Waiting(f"needs plugin {name!r}")  # noqa: TRY301
                for found in candidate.implemented:
                    checks.check(found, specified, resting)
                checks.check_undecorated(candidate.plugin, specified, manager)
            except Waiting as waiting:
                candidate.refuse("waiting", str(waiting))
            except (Exception, SystemExit) as error:  # noqa: BLE001 - guard place: foreign objects
                candidate.refuse("broken", describe(error))
        if len(_active(candidates)) == before:
            break
    manager.add_hookspecs(hookspecs)
    for module in owners:
        manager.add_hookspecs(module)
    return specified


def _specifications(
    candidates: list[Candidate], manager: pluggy.PluginManager
) -> tuple[checks.Specified, list[types.ModuleType | type]]:
    specified = dict(checks.specifications(hookspecs, manager))
    owner = dict.fromkeys(specified, OWN_DISTRIBUTION)
    modules: list[types.ModuleType | type] = []
    for candidate in _active(candidates):
        for module in candidate.registry.specifications:
            if module in modules:
                continue
            found = checks.specifications(module, manager)
            if twice := sorted(found.keys() & specified.keys()):
                candidate.refuse(
                    "conflict",
                    f"the hook {twice[0]!r} of {candidate.label} is taken by {owner[twice[0]]}",
                )
                break
            specified.update(found)
            owner.update(dict.fromkeys(found, candidate.label))
            modules.append(module)
    return specified, modules


def _needs(plugin: object) -> Sequence[str]:
    needs: Any = inspect.getattr_static(plugin, "toril_needs", ())
    return (
        [needs] if isinstance(needs, str) else [str(name) for name in cast("Iterable[Any]", needs)]
    )
