"""Stopping: let running jobs finish for the grace time, then give them back."""

from __future__ import annotations

import asyncio
import logging
import math
import time
from typing import Final

from toril.worker.engine import Engine

log = logging.getLogger("toril.worker")

_TO_CANCEL: Final = 0.5
"""Seconds that handlers have to end after they have been cancelled."""
_TO_TELL: Final = 1.5
"""Seconds in which the server must have taken note of what is given back."""


class Stop:
    """Somebody's wish that a worker stops, and until when its jobs may go on."""

    def __init__(self) -> None:
        self._changed = asyncio.Event()
        self._deadline = math.inf

    @property
    def asked(self) -> bool:
        """Whether the worker is to stop."""
        return self._deadline < math.inf

    @property
    def left(self) -> float:
        """Seconds until the grace time ends."""
        return max(0.0, self._deadline - time.monotonic())

    def ask(self, grace: float) -> None:
        """Stop within `grace` seconds; a later wish can only shorten an earlier one."""
        self._deadline = min(self._deadline, time.monotonic() + grace)
        self._changed.set()

    async def watch(self, engine: Engine, work: asyncio.Task[None]) -> None:
        """Wait for `work`, the engine's loop; once asked to stop, see that it ends in time."""
        changed = asyncio.ensure_future(self._changed.wait())
        try:
            await asyncio.wait((work, changed), return_when=asyncio.FIRST_COMPLETED)
            engine.finish()
            while not work.done() and self.left > 0:
                self._changed.clear()
                changed.cancel()
                changed = asyncio.ensure_future(self._changed.wait())
                await asyncio.wait(
                    (work, changed), timeout=self.left, return_when=asyncio.FIRST_COMPLETED
                )
        finally:
            changed.cancel()
            await give_up(engine, work)


async def give_up(engine: Engine, work: asyncio.Task[None]) -> None:
    """End the engine's loop now: what runs is cancelled and given back."""
    engine.finish()
    if not work.done():
        engine.cancel_all()
        await asyncio.wait((work,), timeout=_TO_CANCEL)
    if not work.done():
        engine.abandon_all()
        await asyncio.wait((work,), timeout=_TO_TELL)
    if not work.done():
        log.error(
            "the server took no note of the end of some jobs; they will be recovered as stalled"
        )
        work.cancel()
        await asyncio.wait((work,))
