"""The journal of any queue, for whoever writes to it from outside this plugin."""

from __future__ import annotations

from collections.abc import Callable

from toril.plugins import Json, JsonObject, PluginContext
from toril_plugins.retention.journal import SCRIPT


class QueueJournal:
    """See `toril_plugins.retention.journal.Journal`.

    Args:
        context: the plugin's, once it has been started.
    """

    def __init__(self, context: Callable[[], PluginContext]) -> None:
        self._context = context

    async def run(self, queue: str, args: JsonObject, /) -> Json:
        """Run the script."""
        return await self._context().run_script(queue, SCRIPT, args)
