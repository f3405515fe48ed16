"""Who carries out the rules of a queue, and whether anybody does."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Protocol

from toril.plugins import Outcome, as_datetime

if TYPE_CHECKING:
    from toril import Queue

REPORTING: Final = "the process that sweeps the queue runs with report_only, and removes nothing"
REPORTING_HERE: Final = "this process runs with report_only, and removes nothing"


@dataclass(frozen=True, slots=True)
class CarryingOut:
    """What becomes of the rules of a queue.

    `plugin` carries them out; `missing`: plugins that the queue requires and this process lacks;
    `swept`: whether some process leads the sweeping, or did within ten minutes; `last`: when a
    sweep last came to its end (ms), None: never; `held`: finished jobs that are held; `reporting`:
    the process that sweeps, or did so last, runs with `report_only`.
    """

    plugin: str
    missing: str
    swept: bool
    last: int | None
    held: Mapping[Outcome, int]
    reporting: bool = False

    @property
    def obstacle(self) -> str | None:
        """Why nothing goes, for people; None: rules are carried out."""
        if self.reporting:
            return REPORTING
        if self.swept:
            return None
        text = "no process has ever swept the queue"
        if self.last is not None:
            text = f"no process has swept the queue since {as_datetime(self.last):%Y-%m-%d %H:%M}"
        text += f": run a worker of Toril with the plugin {self.plugin}, or `toril sweep`"
        if self.missing:
            text += f"; the queue requires {self.missing} there"
        return text


class Carrier(Protocol):
    """The cleanup plugin's answer, about any queue by its name."""

    async def carrying_out(self, queue: str, /) -> CarryingOut:
        """Look."""
        ...


async def carrying_out(queue: Queue) -> CarryingOut:
    """Who carries out what is said for the queue.

    Raises `ConfigurationError` if no plugin in use here would.
    """
    await queue.counts()  # its plugins run from now on
    carrier: Carrier = queue.app.named("retention", "carrier")
    return await carrier.carrying_out(queue.name)
