"""What a queue has done and who works on it: the methods that `Queue` and `SyncQueue` have for it.

Each operation is written once, as a procedure; the two faces differ in how they wait.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TypeVar

from toril.connection.call import Procedure, only
from toril.protocol import inspecting
from toril.protocol.inspecting import MinuteMetrics
from toril.types import Outcome

T = TypeVar("T")


def metrics(key: str, outcome: Outcome, start: int, stop: int) -> Procedure[MinuteMetrics]:
    """Jobs that ended, per minute."""
    if outcome not in ("completed", "failed"):
        raise ValueError(f"there are metrics of 'completed' and 'failed' jobs, not of {outcome!r}")
    return only(inspecting.minute_metrics(key, outcome, start, stop))


class Inspection(ABC):
    """Looking at a queue; a part of `Queue`."""

    @property
    @abstractmethod
    def key(self) -> str:
        """What the names of its keys in the server begin with."""

    @abstractmethod
    async def _perform(self, procedure: Procedure[T]) -> T: ...

    async def metrics(
        self, outcome: Outcome = "completed", start: int = 0, stop: int = -1
    ) -> MinuteMetrics:
        """How many jobs ended in each minute.

        Args:
            outcome: `completed` or `failed`.
            start: The first minute wanted; 0 is the newest for which there is a number.
            stop: The last, inclusive; -1 is the oldest.
        """
        return await self._perform(metrics(self.key, outcome, start, stop))


class SyncInspection(ABC):
    """Looking at a queue; a part of `SyncQueue`. Every method is that of `Queue`."""

    @property
    @abstractmethod
    def key(self) -> str:
        """What the names of its keys in the server begin with."""

    @abstractmethod
    def _perform(self, procedure: Procedure[T]) -> T: ...

    def metrics(
        self, outcome: Outcome = "completed", start: int = 0, stop: int = -1
    ) -> MinuteMetrics:
        """How many jobs ended in each minute."""
        return self._perform(metrics(self.key, outcome, start, stop))
