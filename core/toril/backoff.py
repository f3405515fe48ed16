"""How long a job waits before its next attempt."""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import Final, Self

from toril.duration import milliseconds
from toril.types import Json, JsonObject

LONGEST_DELAY: Final = 10 * 365 * 86_400_000
"""Ten years in milliseconds: no backoff is longer, however far an exponential one has grown."""


@dataclass(frozen=True, slots=True)
class Backoff:
    """A delay before the next attempt, stored with the job in BullMQ's shape.

    Made by `Backoff.fixed`, `Backoff.exponential` or `Backoff.custom`. `kind` is the stored type,
    `delay` milliseconds (None if a custom kind was given none), `jitter` between 0 and 1.
    """

    kind: str
    delay: int | None = None
    jitter: float = 0.0

    def __post_init__(self) -> None:
        if not self.kind:
            raise ValueError("a custom backoff needs a name")
        if not 0 <= self.jitter <= 1:
            raise ValueError(f"jitter is a share between 0 and 1, not {self.jitter!r}")

    @classmethod
    def fixed(cls, delay: timedelta | str, *, jitter: float = 0.0) -> Self:
        """The same `delay` before every attempt.

        `jitter` 0.5 draws evenly between half of it and all of it. (Workers of BullMQ for Python
        ignore jitter.)
        """
        return cls("fixed", milliseconds(delay, "Backoff: delay"), jitter)

    @classmethod
    def exponential(cls, delay: timedelta | str, *, jitter: float = 0.0) -> Self:
        """`delay` before the second attempt, twice that before the third, and so on."""
        return cls("exponential", milliseconds(delay, "Backoff: delay"), jitter)

    @classmethod
    def custom(cls, name: str, delay: timedelta | str | None = None) -> Self:
        """A function of the worker's own, found by `name` among `app.worker(..., backoffs=…)`.

        `delay` is handed to it.
        """
        if name in ("fixed", "exponential"):
            raise ValueError(f"{name!r} is built in; use Backoff.{name}(…)")
        return cls(name, None if delay is None else milliseconds(delay, "Backoff: delay"))

    def encode(self) -> JsonObject:
        """As it is stored in a job's options."""
        stored: JsonObject = {"type": self.kind}
        if self.delay is not None:
            stored["delay"] = self.delay
        if self.jitter:
            stored["jitter"] = self.jitter
        return stored

    @classmethod
    def decode(cls, stored: Json) -> Self | None:
        """What a job's options say, or None if that is no backoff at all.

        A bare number is a fixed delay in milliseconds, as in BullMQ; a jitter that is out of range
        counts as none.
        """
        if isinstance(stored, int | float) and not isinstance(stored, bool):
            stored = {"type": "fixed", "delay": stored}
        if not isinstance(stored, dict):
            return None
        kind = stored.get("type")
        if not isinstance(kind, str) or not kind:
            return None
        delay = stored.get("delay")
        jitter = stored.get("jitter")
        return cls(
            kind,
            max(0, int(delay)) if isinstance(delay, int | float) and math.isfinite(delay) else None,
            jitter if isinstance(jitter, int | float) and 0 <= jitter <= 1 else 0.0,
        )


def delay_ms(stored: Json, attempt: int, rng: Callable[[], float] = random.random) -> int | None:
    """Milliseconds until the next attempt, by the `backoff` of a job's options.

    Args:
        stored: The option as stored; None and anything unreadable mean: at once.
        attempt: Which attempt has just failed, from 1.
        rng: Gives evenly distributed numbers in [0, 1), for jitter.

    Returns:
        None for a custom kind: the worker that knows it has to be asked.
    """
    backoff = Backoff.decode(stored)
    if backoff is None:
        return 0
    if backoff.kind not in ("fixed", "exponential"):
        return None
    delay = backoff.delay or 0
    if backoff.kind == "exponential":
        # The exponent is bounded, since nobody needs the digits of 2**100000.
        delay *= 2 ** min(max(attempt, 1) - 1, 64)
    delay = min(delay, LONGEST_DELAY)
    if backoff.jitter:
        lowest = delay * (1 - backoff.jitter)
        return int(lowest + rng() * (delay - lowest))
    return delay
