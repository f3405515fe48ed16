"""What becomes of the rules of any queue, for whoever asks from outside this plugin."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, cast

from toril.plugins import PluginContext
from toril_plugins.retention.carrying_out import CarryingOut
from toril_plugins.retention.values import OUTCOMES

UNSWEPT_MS: Final = 10 * 60_000
"""A rule that nobody has carried out for so long is carried out by nobody."""


class QueueCarrier:
    """See `toril_plugins.retention.carrying_out.Carrier`.

    Args:
        context: the plugin's, once it has been started.
    """

    def __init__(self, context: Callable[[], PluginContext]) -> None:
        self._context = context

    async def carrying_out(self, queue: str, /) -> CarryingOut:
        """Look."""
        context = self._context()
        figures = cast("dict[str, Any]", await context.run_script(queue, "figures", {"slack": 0}))
        return CarryingOut(
            plugin=context.name,
            missing=figures.get("missing") or "",
            swept=is_swept(figures, context.now_ms()),
            last=figures.get("swept"),
            reporting=is_reporting(figures),
            held={outcome: figures[outcome]["held"] for outcome in OUTCOMES},
        )


def is_reporting(figures: Any) -> bool:
    """Whether the process that sweeps, or did so last, removes nothing."""
    return figures.get("reported") is not None


def is_swept(figures: Any, now: int) -> bool:
    """Whether some process leads the sweep, or did lately. `figures`: see `figures.lua`."""
    return bool(figures["lease"] > 0 or (figures.get("swept") or 0) > now - UNSWEPT_MS)
