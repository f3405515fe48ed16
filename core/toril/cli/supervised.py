"""A process of a supervisor: its number, and the line to who started it."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Callable
from typing import Final, Self

VARIABLE: Final = "TORIL_SUPERVISED"
"""What a process of a supervisor finds in its environment: `<number>:<descriptor of its line>`."""
READY: Final = b"ready\n"


class Line:
    """The line to the supervisor. It is closed when the supervisor ends, however that happens."""

    def __init__(self, number: int, descriptor: int) -> None:
        self.number = number
        self._socket = socket.socket(fileno=descriptor)

    @classmethod
    def found(cls) -> Self | None:
        """The line, if this process has one. What handlers start is not to take it for theirs."""
        value = os.environ.pop(VARIABLE, None)
        if value is None:
            return None
        number, descriptor = map(int, value.split(":"))
        return cls(number, descriptor)

    def tell_ready(self) -> None:
        """This process picks up jobs now."""
        self._socket.send(READY)

    def watch(self, gone: Callable[[], object]) -> None:
        """Call `gone` on this loop once the supervisor has."""
        loop = asyncio.get_running_loop()

        def ended() -> None:
            loop.remove_reader(self._socket)
            gone()

        self._socket.setblocking(False)  # noqa: FBT003 - the standard library's own argument
        loop.add_reader(self._socket, ended)

    def close(self) -> None:
        """Hang up."""
        asyncio.get_running_loop().remove_reader(self._socket)
        self._socket.close()
