"""Being there while a handler runs: the context managers that plugins enter around it."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from contextlib import AbstractContextManager
from types import TracebackType
from typing import Literal

from toril.errors import PluginError, Reject
from toril.hooks.function import HookFunction
from toril.snapshots import JobSnapshot


class Around:
    """Enters what the plugins return for one job, and leaves it in the reverse order.

    What a plugin does wrong is logged and counted, and changes nothing for the job.
    """

    def __init__(self, functions: Sequence[HookFunction], job: JobSnapshot) -> None:
        self._functions = functions
        self._job = job
        self._entered: list[tuple[HookFunction, AbstractContextManager[object]]] = []

    def __enter__(self) -> None:
        for function in self._functions:
            with contextlib.suppress(PluginError, Reject):
                manager = function.plain({"job": self._job}, self._about)
                if manager is None:
                    continue
                try:
                    manager.__enter__()
                except Exception as error:  # noqa: BLE001 - guard place
                    function.failed(error, self._about)
                else:
                    self._entered.append((function, manager))

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> Literal[False]:
        for function, manager in reversed(self._entered):
            try:
                manager.__exit__(kind, error, trace)
            except Exception as wrong:  # noqa: BLE001 - guard place
                if wrong is not error:  # a generator raises the handler's own again
                    function.failed(wrong, self._about)
        return False

    def _about(self) -> str:
        return f"{self._job.queue}/{self._job.id}"
