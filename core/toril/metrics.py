"""Counters and gauges of one App: what happened in this process, for whoever exports it.

They cost a dictionary access and know no exporter; exporters are plugins that read them through
`PluginContext.metrics` or `App.metrics`. Names and labels are those of Prometheus: letters, digits
and underscores, a counter's name ending in `_total`.
"""

from __future__ import annotations

import re
import threading
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Literal, TypeAlias

MetricKind = Literal["counter", "gauge"]

MOST_SERIES: Final = 1_000
"""Sets of labels under one name; further ones are counted together, or text made of data would fill
the memory of this process and of whoever collects."""
OTHER: Final = "other"
"""The value of every label of what is counted together."""

_NAME: Final = re.compile(r"[a-zA-Z_][a-zA-Z0-9_]*")

_Key: TypeAlias = tuple[str, tuple[tuple[str, str], ...]]


@dataclass(frozen=True, slots=True)
class Sample:
    """One counter or gauge as it is now. A `counter` only grows, until its process ends."""

    name: str
    labels: Mapping[str, str]
    value: float
    kind: MetricKind


class Metrics:
    """The counters and gauges of one process; any thread may use them."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._values: dict[_Key, float] = {}
        self._kinds: dict[str, MetricKind] = {}
        self._series: Counter[str] = Counter()

    def count(self, name: str, amount: float = 1, /, **labels: str) -> None:
        """Add `amount` to a counter; its labels tell it from others of that name.

        Raises `ValueError`: a negative amount, a name that is none, or that of a gauge.
        """
        if amount < 0:
            raise ValueError(f"counter {name!r} cannot go down by {-amount:g}")
        with self._lock:
            key = self._key(name, labels, "counter")
            self._put(key, self._values.get(key, 0) + amount)

    def gauge(self, name: str, value: float | None, /, **labels: str) -> None:
        """Set a gauge; None: there is nothing to say any more.

        Raises `ValueError`: a name that is none, or that of a counter.
        """
        with self._lock:
            key = self._key(name, labels, "gauge")
            if value is not None:
                self._put(key, value)
            elif self._values.pop(key, None) is not None:
                self._series[name] -= 1

    def samples(self) -> tuple[Sample, ...]:
        """All of them as they are now, by name."""
        with self._lock:
            values = sorted(self._values.items())
            return tuple(
                Sample(name, dict(labels), value, self._kinds[name])
                for (name, labels), value in values
            )

    def _key(self, name: str, labels: Mapping[str, str], kind: MetricKind) -> _Key:
        key = (name, tuple(sorted(labels.items())))
        if key in self._values and self._kinds[name] == kind:
            return key
        if wrong := [each for each in (name, *labels) if not _NAME.fullmatch(each)]:
            raise ValueError(f"{wrong[0]!r} names no metric and no label: letters, digits and '_'")
        if (known := self._kinds.setdefault(name, kind)) != kind:
            raise ValueError(f"{name!r} is a {known}, not a {kind}")
        if self._series[name] >= MOST_SERIES:
            return (name, tuple((label, OTHER) for label, _ in key[1]))
        return key

    def _put(self, key: _Key, value: float) -> None:
        if key not in self._values:
            self._series[key[0]] += 1
        self._values[key] = value
