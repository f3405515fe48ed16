"""A plugin that notes what it is told, and a setting that means nothing."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Self

from toril import Setting, hookimpl
from toril.plugins import (
    Draft,
    JobEvent,
    JobRemoved,
    JobRetried,
    JobSaved,
    Json,
    Registry,
    Removal,
    Said,
    SavePlan,
)


async def until(condition: Callable[[], object]) -> None:
    """Return when `condition` holds."""
    async with asyncio.timeout(10):
        while not condition():
            await asyncio.sleep(0.005)


@dataclass(frozen=True)
class Colour(Setting):
    """A setting that means nothing."""

    name: ClassVar[str] = "colour"
    value: str

    def encode(self) -> Json:
        return self.value

    @classmethod
    def decode(cls, value: Json) -> Self:
        return cls(str(value))

    @classmethod
    def project(cls, live: Sequence[Said[Self]]) -> dict[str, str]:
        return {"first": live[0].value.value} if live else {}


class Witness:
    """A plugin that declares `Colour`, stores it with jobs, and notes every event."""

    toril_name = "witness"

    def __init__(self) -> None:
        self.events: list[JobEvent] = []
        self.drafts: list[Draft] = []
        self.removals: list[Removal] = []
        self.refuse: Callable[[Any], None] = lambda planned: None

    @hookimpl
    def toril_register(self, registry: Registry) -> None:
        registry.setting(Colour)

    @hookimpl
    def toril_plan_save(self, draft: Draft) -> SavePlan | None:
        self.drafts.append(draft)
        self.refuse(draft)
        return SavePlan(settings=draft.said) if draft.said else None

    @hookimpl
    def toril_plan_remove(self, removal: Removal) -> None:
        self.removals.append(removal)
        self.refuse(removal)

    @hookimpl
    async def toril_jobs_saved(self, events: Sequence[JobSaved]) -> None:
        self.events += events

    @hookimpl
    def toril_jobs_removed(self, events: Sequence[JobRemoved]) -> None:
        self.events += events

    @hookimpl
    def toril_jobs_retried(self, events: Sequence[JobRetried]) -> None:
        self.events += events
