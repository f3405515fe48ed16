"""What programs say for whole queues in code, `app.queue(name, *settings)`."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

from toril.clock import Clock
from toril.connection.call import Procedure
from toril.errors import ConfigurationError
from toril.protocol.settings import set_live
from toril.setting import Said, Setting
from toril.settings import check_declared, say


class DeclaredSettings:
    """The settings of one App's queues, each published once, at the queue's first operation.

    Args:
        key: Makes the key prefix of a queue from its name.
        clock: Says when something was declared.
    """

    def __init__(self, key: Callable[[str], str], clock: Clock) -> None:
        self._key = key
        self._clock = clock
        self._said: dict[str, dict[type[Setting], Said[Any]]] = {}
        self.unpublished: set[str] = set()
        """Queues for which something has to be published before their next operation."""

    def forget(self) -> None:
        """As if nothing had been published yet."""
        self.unpublished = set(self._said)

    def declare(self, queue: str, settings: Sequence[Setting]) -> None:
        """Note what was said for a queue.

        Raises `ConfigurationError` if something else of that kind was said for it before.
        """
        known = self._said.get(queue, {})
        for said in say("queue", settings, f"app.queue({queue!r})", self._clock.now_ms()):
            value: Setting = said.value
            other = known.get(type(value))
            if other is not None and other.value != value:
                raise ConfigurationError(
                    f"queue {queue!r} was declared with {other.value!r} before, "
                    f"and now with {said.value!r}"
                )
            if other is None:
                known = self._said.setdefault(queue, known)
                known[type(value)] = said
                self.unpublished.add(queue)

    def of(self, queue: str) -> tuple[Said[Any], ...]:
        """What was said for a queue."""
        return tuple(self._said.get(queue, {}).values())

    def publishing(
        self, queues: Iterable[str], kinds: Mapping[str, type[Setting]]
    ) -> Iterator[Procedure[object]]:
        """Procedures that publish what was declared and is not published yet.

        Args:
            queues: Whose.
            kinds: The kinds of setting that plugins in use understand; another one is a
                `ConfigurationError`.
        """
        for queue in queues:
            if queue not in self.unpublished:
                continue
            declared = self.of(queue)
            check_declared(declared, kinds)
            for said in declared:
                value: Setting = said.value
                yield set_live(
                    self._key(queue),
                    type(value),
                    "queue",
                    value,
                    how="declared",
                    source=said.source,
                    now=said.since,
                )
            self.unpublished.discard(queue)
