"""What a plugin contributes beside hooks, and the place where all contributions come together."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, is_dataclass
from types import ModuleType
from typing import Any, Final

from toril.errors import ConfigurationError
from toril.hooks.configuration import did_you_mean
from toril.hooks.context import Service
from toril.setting import Setting
from toril_lua import ALWAYS, POINTS, Chunk

NAME: Final = re.compile(r"[A-Za-z][A-Za-z0-9_-]*")
"""Names of plugins, settings, scripts and services: they become part of Redis keys and fields."""

RESERVED: Final = frozenset(
    {
        "call",
        "deferred",
        "events",
        "flows",
        "lease",
        "required",
        "rescue",
        "said",
        "stalled",
        "toril",
        "workers",
    }
)
"""Names that Toril's own keys, fields and configuration use."""

_OWN_KINDS: Final = frozenset(
    {"config", "setting", "setting at save", "script", "service", "reports"}
)

ServiceFactory = Callable[[], Service]


@dataclass(frozen=True, slots=True)
class Contribution:
    """A named thing of a plugin. Within `kind` a name belongs to one plugin alone."""

    kind: str
    name: str
    value: object
    plugin: str
    distribution: str


@dataclass(slots=True)
class Registry:
    """Given to `toril_register`: what a plugin brings beside its hooks.

    Every method raises `ConfigurationError` for what cannot be registered; the plugin is then
    shown as broken and not used.
    """

    plugin: str
    distribution: str
    contributions: list[Contribution] = field(default_factory=list["Contribution"])
    chunks: list[Chunk] = field(default_factory=list["Chunk"])
    specifications: list[ModuleType | type] = field(default_factory=list["ModuleType | type"])

    def config(self, kind: type[Any]) -> None:
        """Declare the dataclass of the plugin's options, the one for `context.config(kind)`.

        `toril plugins check` then finds wrong options without starting anything.
        """
        if not is_dataclass(kind):
            raise ConfigurationError(f"{kind!r} is no dataclass of options")
        self._add("config", self.plugin, kind)

    def setting(self, kind: type[Setting], *, at_save: bool = False) -> None:
        """Declare a setting, so that people may give it at every level that it allows.

        Its `name` becomes part of fields of the queue (`toril.<name>.…`) and is no plugin's name.
        `at_save`: what is said for the queue is wanted when jobs are saved, as `draft.live(kind)`;
        each process then reads it once per queue every 10 seconds while it saves.
        """
        if not issubclass(kind, Setting):
            raise ConfigurationError(f"{kind!r} is not a subclass of toril.Setting")
        self._add("setting", getattr(kind, "name", ""), kind)
        if at_save:
            self._add("setting at save", kind.name, kind)

    def hookspecs(self, module: ModuleType | type) -> None:
        """Add the hook specifications of a module (or class), for other plugins to implement.

        They are called by the plugin itself, through `context.call` or `context.implementations`.
        """
        self.specifications.append(module)

    def lua(
        self,
        point: str,
        source: str,
        meta: Sequence[str] = (),
        only_with: Sequence[str] = (),
        look: str = ALWAYS,
    ) -> None:
        """Add a chunk of Lua to core's scripts: the body of `function(ctx)`.

        Args:
            point: `adding` (per new job whose id the caller gave, before it is written), `saved`,
                `finished` (per job), `finished_batch` (once per call), `removing` (per
                job that an operator removes), `removed` (per job, before its keys go), `restored`
                (per job that a plugin puts back).
            source: its text.
            meta: fields of the queue's `meta` that it reads with `ctx.meta(field)`.
            only_with: fields of `meta` for a chunk at `finished_batch` that has nothing to do in
                queues that have none of them. There it is called only if `toril_plan_finish` of its
                plugin planned something for a job of the call, or raised.
            look: beside `only_with`, the body of a `function(ctx)` that is run before anything is
                made for chunks, where one of the fields is set or something was planned, and
                returns whether there may be something to do: else the chunk need not be called.
                Its `ctx` has `q`, `now`, `ended` and `seen` as the chunk's has; `fields`: the
                fields of `only_with`; `planned`: whether any plugin planned something;
                `list(outcome)` → ids and names of the jobs that ended so, and by their
                numbers what this plugin planned for them, and the keys of their parents.
                `remove_known(outcome, ids, rule, value)` removes 1 to 100 jobs as the chunk's
                does, tells the stream of a single one, and reports `value`.
        """
        if point not in POINTS:
            raise ConfigurationError(f"there is no point {point!r}{did_you_mean(point, POINTS)}")
        _check_text(f"the chunk at {point!r}", source)
        _check_text(f"the look of the chunk at {point!r}", look)
        self.chunks.append(Chunk(self.plugin, point, source, tuple(meta), tuple(only_with), look))

    def reports(self, take: Callable[[Any], object]) -> None:
        """Take what the plugin's Lua hands back with `ctx.report(value)`.

        `take` is a plain function, called with each value in the process whose call ran the Lua;
        what it raises is logged.
        """
        self._add("reports", self.plugin, take)

    def script(self, name: str, source: str) -> None:
        """Add a script of the plugin's own: the body of `function(ctx, args)`.

        It is run by `context.run_script(queue, name, args)`.
        """
        _check_text(f"the script {name!r}", source)
        self._add("script", name, source, within=self.plugin)

    def service(self, name: str, factory: ServiceFactory) -> None:
        """Add work that one process at a time does for each queue that has a worker.

        `factory` is called once per worker, after `toril_start`, and returns an object with
        `run_once(context)`.
        """
        if name in RESERVED:
            raise ConfigurationError(f"a service cannot be called {name!r}: Toril uses that name")
        self._add("service", name, factory)

    def name(self, kind: str, name: str, value: object) -> None:
        """Register an object under a name; `App.named(kind, name)` finds it.

        `kind` says what such objects are for, `"strategy"` for example.
        """
        if kind in _OWN_KINDS:
            raise ConfigurationError(f"kind {kind!r} has a method of its own: registry.{kind}()")
        self._add(kind, name, value)

    def _add(self, kind: str, name: str, value: object, within: str | None = None) -> None:
        if not NAME.fullmatch(name):
            raise ConfigurationError(
                f"{kind} {name!r}: a name is a letter followed by letters, digits, '-' and '_'"
            )
        full = f"{within}/{name}" if within else name
        for other in self.contributions:
            if (other.kind, other.name) == (kind, full) and other.value is not value:
                raise ConfigurationError(f"{kind} {name!r} is registered twice")
        self.contributions.append(Contribution(kind, full, value, self.plugin, self.distribution))


def _check_text(what: str, source: object) -> None:
    try:
        if isinstance(source, str):
            source.encode()
            return
    except UnicodeEncodeError:
        pass  # half of a character
    raise ConfigurationError(f"{what} is not a text of Lua: {source!r:.80}")
