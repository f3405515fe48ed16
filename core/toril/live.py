"""What is said for whole queues, for plugins that want to know it when a job is saved."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final, TypeAlias

from toril.clock import Clock
from toril.connection.call import Procedure
from toril.protocol.settings import read_all_live
from toril.setting import Said, Setting

FRESH: Final = 10_000
"""Milliseconds after which what is said for a queue is read again."""

LiveAtSave: TypeAlias = "Mapping[type[Setting], Sequence[Said[Any]]]"
"""By kind; kinds of which nothing is said are not in it."""
NOTHING_SAID: Final[LiveAtSave] = {}


class LiveSettings:
    """Remembers what is said for queues, by their keys, for a short time.

    `kinds` are the settings that somebody wants to know; without any the server is not asked.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._known: dict[str, tuple[int, LiveAtSave]] = {}

    def known(self, queue: str, kinds: Sequence[type[Setting]]) -> LiveAtSave | None:
        """What is said for a queue; None: it has to be read (again)."""
        if not kinds:
            return NOTHING_SAID
        known = self._known.get(queue)
        if known is None or abs(self._clock.now_ms() - known[0]) >= FRESH:
            return None
        return known[1]

    def of(
        self, queues: Iterable[str], kinds: Sequence[type[Setting]]
    ) -> Procedure[Mapping[str, LiveAtSave]]:
        """What is said for each of these queues; read, in one go, where it is not known.

        Who saves while somebody else reads goes on with what was known before.
        """
        known = {queue: self.known(queue, kinds) for queue in dict.fromkeys(queues)}
        missing = [queue for queue, said in known.items() if said is None]
        if missing:
            before = {queue: self._known[queue] for queue in missing if queue in self._known}
            for queue, (_, said) in before.items():
                self._known[queue] = (self._clock.now_ms(), said)
            try:
                found: Sequence[LiveAtSave] = yield read_all_live(missing, kinds)
            except BaseException:
                self._known.update(before)
                raise
            for queue, said in zip(missing, found, strict=True):
                self._known[queue] = (self._clock.now_ms(), said)
                known[queue] = said
        return {queue: said or NOTHING_SAID for queue, said in known.items()}
