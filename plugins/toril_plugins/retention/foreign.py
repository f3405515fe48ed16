"""What workers of other libraries are told about how long jobs are kept."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal, Self

from toril import Said, Setting
from toril.plugins import Json, Level

Mode = Literal["native", "isolate"]


@dataclass(frozen=True, slots=True)
class Foreign(Setting):
    """What jobs of the queue tell workers of other libraries, which act by their own rules.

    Args:
        mode: `native` (default): what was said for the job, in their own terms. `isolate`: to keep
            the job, unless it was said not to be kept at all; a sweeper of Toril then applies what
            was really said. It counts for jobs that are added from then on.

    Raises `ValueError` for any other mode.
    """

    mode: Mode

    name: ClassVar[str] = "foreign"
    levels: ClassVar[tuple[Level, ...]] = ("queue",)

    def __post_init__(self) -> None:
        if self.mode not in ("native", "isolate"):
            raise ValueError(f"Foreign({self.mode!r}): say 'native' or 'isolate'")

    def __str__(self) -> str:
        return self.mode

    def encode(self) -> Json:
        """The mode."""
        return self.mode

    @classmethod
    def decode(cls, value: Json) -> Self:
        """Read what `encode` wrote; `ValueError` for anything else."""
        if value == "native":
            return cls("native")
        if value == "isolate":
            return cls("isolate")
        raise ValueError(f"not a stored Foreign: {value!r}")

    @classmethod
    def project(cls, live: Sequence[Said[Self]]) -> Mapping[str, str]:
        """`mode`: what holds."""
        return {"mode": live[0].value.mode} if live else {}
