"""Refusing plugins whose Lua does not compile, before it is put into core's scripts."""

from __future__ import annotations

import logging
from typing import Final

from toril.connection.call import Procedure
from toril.hooks.plugin_set import PluginSet
from toril.protocol.compiling import compile_lua

log: Final = logging.getLogger("toril.hooks")


def check_lua(plugins: PluginSet) -> Procedure[None]:
    """Put each plugin out of use whose Lua does not compile, or ends the function it stands in.

    Without such a plugin no server is asked; Toril's own Lua is checked by its tests.
    Raises `ConfigurationError` if the plugin is required.
    """
    sources = plugins.foreign_lua()
    if not sources:
        return
    wrong: tuple[str, ...] = yield compile_lua([each[1:] for each in sources])
    for (plugin, _, _), why in zip(sources, wrong, strict=True):
        if why and plugin in plugins.active:
            info = plugins.info(plugin)
            log.error("plugin %r (%s) is broken: %s", plugin, info.label if info else "", why)
            plugins.withdraw(plugin, f"its Lua does not compile: {why}")
    plugins.check_required()
