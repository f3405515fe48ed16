"""Toril's own setting: whether a queue's event stream tells values."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Self

from toril.setting import Level, Said, Setting
from toril.types import Json


@dataclass(frozen=True, slots=True)
class EventValues(Setting):
    """Whether the event stream of a queue tells results, reasons and progress; it does by default.

    What is in the stream outlives the job until it is trimmed. With `EventValues(False)` the events
    of jobs that Toril ends say `null` for a result and for progress, and nothing for a reason, and
    have the field `values` = `off`. Toril's own `job.result()` reads the job then. Other libraries
    take the event for the truth: `waitUntilFinished` of BullMQ returns `null`. Workers of other
    libraries write values all the same.
    """

    told: bool

    name: ClassVar[str] = "events"
    levels: ClassVar[tuple[Level, ...]] = ("queue",)

    def __str__(self) -> str:
        return "on" if self.told else "off"

    def encode(self) -> Json:
        """The value as JSON."""
        return self.told

    @classmethod
    def decode(cls, value: Json) -> Self:
        """The value that `encode` wrote. Raises `ValueError` for anything else."""
        if isinstance(value, bool):
            return cls(value)
        raise ValueError(f"not a stored EventValues: {value!r}")

    @classmethod
    def project(cls, live: Sequence[Said[Any]]) -> Mapping[str, str]:
        """`values` = `off` where nothing is told."""
        return {} if not live or live[0].value.told else {"values": "off"}
