"""What the engine asks of others, and what it gets."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
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


class UnderWay(Protocol):
    """A turn that was begun, and goes on by itself."""

    @property
    def ended(self) -> bool: ...

    def result(self) -> Turn:
        """What came of it, once it has ended. Raises what it ended with."""
        ...

    def cancel(self) -> None:
        """End it as soon as it can be."""
        ...


class Outside(Protocol):
    """What the engine needs others to do."""

    def take_turn(self, batch: Batch, over: Callable[[UnderWay], None], /) -> UnderWay:
        """Begin to carry out a batch on the server, however long that takes.

        `over` is called when it has ended, mostly in the step of the loop that reads the reply.
        """
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
