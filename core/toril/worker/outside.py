"""What the engine asks of others, and what it gets."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Protocol

import msgspec

from toril.protocol.finishing import Finish, TickReply
from toril.worker.active_job import ActiveJob


class Batch(msgspec.Struct, frozen=True):
    """What one call shall do: end these attempts, and pick up so many jobs (0: none)."""

    ended: Sequence[tuple[ActiveJob, Finish]]
    fetch: int


class Turn(msgspec.Struct, frozen=True):
    """What came of a batch: the token of the jobs that were picked up, and the reply."""

    token: str
    reply: TickReply


class Outside(Protocol):
    """What the engine needs others to do."""

    async def take_turn(self, batch: Batch, /) -> Turn:
        """Carry out a batch on the server, however long that takes."""
        ...

    @property
    def crowded(self) -> bool:
        """So much is still to be told to plugins that no more jobs should be picked up."""
        ...

    async def room(self) -> None:
        """Wait until that is over."""
        ...

    def empty_handed(self) -> None:
        """The engine is about to wait although it has free slots."""
        ...

    def watch(self) -> None:
        """Fetch one job as soon as there is one, and call `came`, whatever comes of it."""
        ...

    def recall(self) -> None:
        """Do so now, whether there is one or not."""
        ...

    def hold(self, jobs: Iterable[ActiveJob], /) -> None:
        """From now on these are the jobs whose locks are to be renewed."""
        ...
