"""The scripts of one App: core's own, with the chunks of its plugins, and the plugins' own."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from toril_lua import Chunk, Script, compose, compose_plugin_script


class ScriptSet:
    """Finds a composed script by its name; each is composed at its first use.

    Args:
        chunks: What plugins run inside core's scripts, in the order in which they are called.
        plugin_scripts: Plugins' own scripts: (plugin, name) → the body of `function(ctx, args)`.
            A call names one as `plugin:<plugin>:<name>`.
        plugins: The names of the plugins in use, for `ctx.plugins`.
    """

    def __init__(
        self,
        chunks: Iterable[Chunk] = (),
        plugin_scripts: Mapping[tuple[str, str], str] | None = None,
        plugins: Iterable[str] = (),
    ) -> None:
        self.replace(chunks, plugin_scripts or {}, plugins)

    def replace(
        self,
        chunks: Iterable[Chunk],
        plugin_scripts: Mapping[tuple[str, str], str],
        plugins: Iterable[str],
    ) -> None:
        """Go on with other chunks and scripts of plugins."""
        self._chunks = tuple(chunks)
        self._sources = dict(plugin_scripts)
        self._plugins = tuple(sorted(plugins))
        self._composed: dict[str, Script] = {}

    def __getitem__(self, name: str) -> Script:
        """The script `name`. Raises `ScriptError` if there is none."""
        script = self._composed.get(name)
        if script is None:
            script = self._composed[name] = self._compose(name)
        return script

    def _compose(self, name: str) -> Script:
        kind, _, rest = name.partition(":")
        if kind == "plugin":
            plugin, _, own = rest.partition(":")
            source = self._sources.get((plugin, own))
            if source is not None:
                return compose_plugin_script(source, self._chunks, plugin, own, self._plugins)
        return compose(name, self._chunks, self._plugins)
