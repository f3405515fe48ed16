"""What may be said to an App beside its server and its settings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import Any, TypedDict

from toril.clock import Clock


class AppOptions(TypedDict, total=False):
    """The options of an App, all optional."""

    prefix: str
    """What the names of all keys begin with (`bull`, BullMQ's own default)."""
    plugins: Sequence[object] | None
    """Which plugins to use, and in which order: names of installed ones and objects; None: what
    `TORIL_PLUGINS` says, else all that are installed."""
    block: Sequence[str]
    """Names of plugins not to use."""
    config: Mapping[str, Any] | None
    """A table of options per plugin; None: the TOML file that `TORIL_CONFIG` names."""
    clock: Clock | None
    """Where the time comes from; tests give a `ManualClock`."""
    rescue_after: timedelta | str
    """How long a parent whose failure is decided may wait for a worker of its queue, before another
    process fails it (`1m`)."""
