"""Deduplication: jobs that are not added while another one stands for them."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta

from toril.duration import milliseconds
from toril.errors import InvalidJob
from toril.types import JsonObject


@dataclass(frozen=True, slots=True)
class Deduplication:
    """A job with this `id` is not added while another one with it owns the window.

    The window is open until its owner has ended; with `ttl`, for that long from the add. What
    `add` returns for the job that is not added is the owner, with `duplicate=True`.

    Args:
        id: What is the same about the jobs; any text.
        ttl: How long the window is open (`"5s"`), whether or not its owner has ended.
        extend: Every job that comes meanwhile opens it anew for `ttl`.
        replace: A new job takes the place of an owner that is still delayed, unless a plugin keeps
            that from being removed.
        keep_last: Of the jobs that come while the owner is running, the last is kept and added
            when the owner has ended. Such a window has no `ttl`.
        reschedule: A job that comes while the owner is delayed gives it its own delay.

    Raises:
        ValueError: The id is empty or not valid Unicode, `extend` has no `ttl` or `keep_last` has
            one, or `ttl` is below a millisecond.
        TypeError: The id is no text; `ttl` is a bare number.
    """

    id: str
    ttl: timedelta | str | None = None
    extend: bool = False
    replace: bool = False
    keep_last: bool = False
    reschedule: bool = False

    def __post_init__(self) -> None:
        check_window(self.id)
        if self.ttl is not None and milliseconds(self.ttl, "Deduplication: ttl") < 1:
            raise ValueError(f"Deduplication(ttl={self.ttl!r}): a window is open for 1ms or more")
        if self.extend and self.ttl is None:
            raise ValueError("Deduplication(extend=True) needs a ttl: that is what is extended")
        if self.keep_last and self.ttl is not None:
            raise ValueError(
                "Deduplication(keep_last=True) has no ttl: its window is open until the owner ends"
            )

    def encode(self) -> JsonObject:
        """As BullMQ stores it."""
        stored: JsonObject = {"id": self.id}
        if self.ttl is not None:
            stored["ttl"] = milliseconds(self.ttl)
        for option, name in (
            ("extend", self.extend),
            ("replace", self.replace),
            ("keepLastIfActive", self.keep_last),
            ("reschedule", self.reschedule),
        ):
            if name:
                stored[option] = True
        return stored


def check_window(id: str) -> None:
    """Raise `TypeError` or `InvalidJob` for what cannot be the id of a window."""
    if not isinstance(id, str):
        raise TypeError(f"the id of a deduplication is a text, not {id!r}")
    try:
        good = id.encode() != b""
    except UnicodeEncodeError:
        good = False
    if not good:
        raise InvalidJob(f"the id of a deduplication must be valid Unicode, not empty: {id!r}")
