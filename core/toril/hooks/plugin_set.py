"""The plugins of one App, as loaded: what is in use, what is not and why."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from types import MappingProxyType
from typing import Any, Final, Literal, cast

import pluggy

from toril.errors import ConfigurationError
from toril.event_values import EventValues
from toril.hooks.configuration import Configuration, did_you_mean
from toril.hooks.function import Counts, HookFunction
from toril.hooks.registry import Contribution, ServiceFactory
from toril.metrics import Sample
from toril.setting import Setting
from toril_lua import Chunk

Status = Literal["active", "off", "blocked", "broken", "conflict", "waiting"]

OWN_DISTRIBUTION: Final = "toril"

SAVE: Final = "toril_plan_save"

EVENT_HOOKS: Final = frozenset(
    f"toril_jobs_{what}"
    for what in ("saved", "completed", "failed", "retried", "stalled", "removed")
)


@dataclass(frozen=True, slots=True)
class PluginInfo:
    """A plugin as `toril plugins ls` shows it.

    `status`: `active`; `off` (until it is configured); `blocked` (not wanted); `broken` (`error`
    says why); `conflict` (a name of its is taken); `waiting` (for another plugin). `origin` is
    where its code comes from.
    """

    name: str
    distribution: str
    version: str
    status: Status
    hooks: tuple[str, ...]
    origin: str
    error: str | None = None

    @property
    def label(self) -> str:
        """The distribution and its version, or where it comes from."""
        return f"{self.distribution} {self.version}".strip() or self.origin


@dataclass(frozen=True, slots=True)
class RegisteredService:
    """A leased service that a plugin brings."""

    plugin: str
    name: str
    factory: ServiceFactory


class PluginSet:
    """The plugins of one App.

    Which of them are in use changes at one moment only: a plugin that cannot start is withdrawn.
    """

    def __init__(
        self,
        manager: pluggy.PluginManager,
        infos: Sequence[PluginInfo],
        *,
        hooks: frozenset[str],
        contributions: Sequence[Contribution],
        chunks: tuple[Chunk, ...],
        configuration: Configuration,
    ) -> None:
        self._manager = manager
        self._infos = list(infos)
        self._hooks = hooks
        self._contributions = tuple(contributions)
        self._chunks = chunks
        self.configuration = configuration
        self._made: dict[tuple[str, str, object], HookFunction] = {}
        self._compile()

    def _compile(self) -> None:
        labels = {info.name: info.label for info in self._infos}
        self.active = frozenset(info.name for info in self._infos if info.status == "active")
        self._functions: dict[str, tuple[HookFunction, ...]] = {}
        for hook in self._hooks:
            caller = cast("pluggy.HookCaller", getattr(self._manager.hook, hook))
            functions: list[HookFunction] = []
            for found in reversed(caller.get_hookimpls()):
                key = (found.plugin_name, hook, found.function)
                function = self._made.get(key) or HookFunction(
                    found.plugin_name,
                    labels[found.plugin_name],
                    hook,
                    found.function,
                    tuple(found.argnames),
                )
                functions.append(self._made.setdefault(key, function))
            if functions:
                self._functions[hook] = tuple(functions)
        savers = self.functions(SAVE)
        self.savers = {True: savers, False: tuple(f for f in savers if not f.only_when_said)}
        """The functions that plan a save, by whether somebody has said something for the job."""
        self.wants = frozenset(EVENT_HOOKS & self._functions.keys())
        self._named = {
            (each.kind, each.name): each
            for each in self._contributions
            if each.plugin in self.active
        }
        kinds = self._of_kind("setting at save").values()
        self.settings_at_save = tuple(cast("Iterable[type[Setting]]", kinds))
        """Settings of which plugins want to know what is said for the queue at each save."""

    @property
    def infos(self) -> tuple[PluginInfo, ...]:
        """All plugins that were found, in plugin order, with what became of them."""
        return tuple(self._infos)

    def info(self, name: str) -> PluginInfo | None:
        """The plugin of that name that is in use; else the one that would be."""
        found = [info for info in self._infos if info.name == name]
        found.sort(key=lambda info: (info.status != "active", info.status == "conflict"))
        return found[0] if found else None

    def functions(self, hook: str) -> tuple[HookFunction, ...]:
        """The functions of a hook, in the order in which they are called."""
        return self._functions.get(hook, ())

    def function(
        self, plugin: str, what: str, function: Callable[..., object] | None = None
    ) -> HookFunction:
        """The guard of something of a plugin that is no hook: its Lua, what takes its reports."""
        key = (plugin, what, function)
        made = self._made.get(key)
        if made is None:
            info = self.info(plugin)
            made = self._made[key] = HookFunction(
                plugin, info.label if info else "", what, function or _no_function, ("value",)
            )
        return made

    def counts(self) -> Mapping[tuple[str, str], Counts]:
        """What became of the calls so far, by plugin and hook (or other thing of the plugin's)."""
        return {(plugin, hook): each.counts for (plugin, hook, _), each in list(self._made.items())}

    def samples(self) -> tuple[Sample, ...]:
        """The same as counters, and which of the functions are left alone now."""
        found: list[Sample] = []
        for each in list(self._made.values()):
            labels = {"plugin": each.plugin, "hook": each.hook}
            for name, value in asdict(each.counts).items():
                found.append(Sample(f"toril_hook_{name}_total", labels, value, "counter"))
            quiet = float(each.breaker.open())
            found.append(Sample("toril_hook_quiet", labels, quiet, "gauge"))
        return tuple(sorted(found, key=lambda sample: sample.name))

    @property
    def chunks(self) -> tuple[Chunk, ...]:
        """The chunks of Lua of the plugins in use, in plugin order."""
        return tuple(chunk for chunk in self._chunks if chunk.plugin in self.active)

    @property
    def settings(self) -> Mapping[str, type[Setting]]:
        """Toril's own setting and those that plugins in use have declared, by name."""
        declared = cast("dict[str, type[Setting]]", self._of_kind("setting"))
        return MappingProxyType({EventValues.name: EventValues, **declared})

    @property
    def services(self) -> tuple[RegisteredService, ...]:
        """The leased services of the plugins in use."""
        return tuple(
            RegisteredService(each.plugin, each.name, cast("ServiceFactory", each.value))
            for each in self._named.values()
            if each.kind == "service"
        )

    @property
    def report_takers(self) -> Mapping[str, Callable[[Any], object]]:
        """What takes the values that Lua hands back, by plugin."""
        return cast("dict[str, Callable[[Any], object]]", self._of_kind("reports"))

    @property
    def scripts(self) -> Mapping[tuple[str, str], str]:
        """The plugins' own scripts, by plugin and name."""
        return {
            (each.plugin, each.name.partition("/")[2]): cast("str", each.value)
            for each in self._named.values()
            if each.kind == "script"
        }

    def foreign_lua(self) -> tuple[tuple[str, str, str], ...]:
        """The Lua of plugins in use that are not Toril's own: plugin, what it is, its text."""
        found = [(each.plugin, f"chunk '{each.point}'", each.source) for each in self.chunks]
        found += [
            (each.plugin, f"look of the chunk '{each.point}'", each.look)
            for each in self.chunks
            if each.only_with
        ]
        found += [(plugin, f"script '{name}'", it) for (plugin, name), it in self.scripts.items()]
        active = [info for info in self._infos if info.status == "active"]
        own = {info.name for info in active if info.distribution == OWN_DISTRIBUTION}
        return tuple(each for each in found if each[0] not in own)

    def named(self, kind: str, name: str) -> Any:
        """What a plugin registered under a name.

        Raises:
            ConfigurationError: nothing is registered under it.
        """
        found = self._named.get((kind, name))
        if found is None:
            known = sorted(self._of_kind(kind))
            raise ConfigurationError(
                f"no plugin in use offers the {kind} {name!r}{did_you_mean(name, known)} "
                + (f"(known: {', '.join(known)})" if known else f"(nor any other {kind})")
            )
        return found.value

    def _of_kind(self, kind: str) -> dict[str, object]:
        return {name: each.value for (of, name), each in self._named.items() if of == kind}

    def withdraw(self, name: str, error: str) -> None:
        """Take a plugin that is in use out of use: it is broken, and `error` says why."""
        for index, info in enumerate(self._infos):
            if info.name == name and info.status == "active":
                self._infos[index] = replace(info, status="broken", error=error)
                self._manager.unregister(name=name)
        self._compile()

    def check_required(self) -> None:
        """Raise `ConfigurationError` if a required plugin is not in use."""
        for name in self.configuration.required:
            if name not in self.active:
                info = self.info(name)
                why = f"{info.status}: {info.error}" if info else "not installed"
                raise ConfigurationError(
                    f"the plugin {name!r}, which {self.configuration.source} requires, is {why}"
                )

    def wrong_options(self) -> Mapping[str, str]:
        """What is wrong about the options of plugins in use that have declared them, by plugin."""
        wrong: dict[str, str] = {}
        for plugin, kind in self._of_kind("config").items():
            try:
                self.configuration.options(plugin, cast("type[Any]", kind))
            except (ConfigurationError, TypeError, ValueError) as error:
                wrong[plugin] = str(error)
        return wrong

    def summary(self) -> str:
        """One line for the log: `cleanup 1.0, archive 2.1 (broken)`."""
        parts = [
            f"{info.name} {info.version}".strip()
            + ("" if info.status == "active" else f" ({info.status})")
            for info in self._infos
        ]
        return ", ".join(parts) or "none"


def _no_function() -> None:
    """Stands where a guard only counts."""
