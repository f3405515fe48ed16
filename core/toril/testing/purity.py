"""Calling a plain hook as Toril does, and finding out whether it does more than look."""

from __future__ import annotations

import inspect
import sys
import threading
from collections.abc import Callable, Generator
from contextlib import contextmanager
from functools import cache
from typing import Any, Final

FORBIDDEN: Final = (
    "ftplib.", "http.client.", "imaplib.", "os.exec", "os.fork", "os.listdir", "os.mkdir",
    "os.posix_spawn", "os.remove", "os.rename", "os.rmdir", "os.system", "os.truncate", "poplib.",
    "shutil.", "smtplib.", "socket.bind", "socket.connect", "socket.get", "socket.sendmsg",
    "socket.sendto", "sqlite3.connect", "subprocess.", "tempfile.", "time.sleep", "urllib.",
)  # fmt: skip
"""Audit events of Python that a plain function of a plan hook must not cause; and writing files."""


class _Watched(threading.local):
    """What was found in this thread; None: nobody watches."""

    found: list[str] | None = None


_watched: Final = _Watched()


@cache
def _listen() -> None:
    """Listen to Python's audit events from now on; that cannot be undone, so only when needed."""

    def note(event: str, arguments: tuple[Any, ...]) -> None:
        found = _watched.found
        if found is None:
            return
        writes = event == "open" and isinstance(arguments[1], str) and {*"wax+"} & {*arguments[1]}
        if writes or event.startswith(FORBIDDEN):
            found.append(f"{event}{arguments!r:.100}")

    sys.addaudithook(note)


@contextmanager
def no_io() -> Generator[None]:
    """Fail if this thread talks to the network, writes a file, starts a process or sleeps.

    Raises `AssertionError` at the end, naming what it did. Found by Python's audit events, which
    extension modules need not cause. Reading a file is not forbidden: imports do.
    """
    _listen()
    found = _watched.found = list[str]()
    try:
        yield
    finally:
        _watched.found = None
    if found:
        raise AssertionError(f"a plain hook must not do I/O or wait, and this one does: {found[0]}")


def plainly(function: Callable[..., Any], /, **arguments: Any) -> Any:
    """Call a plain hook twice and return its answer; it must be pure.

    Raises:
        AssertionError: It did I/O, answered something else the second time, or is `async def`.
        Exception: Whatever it raises.
    """
    with no_io():
        first = function(**arguments)
        if inspect.iscoroutine(first):
            first.close()
            raise AssertionError(f"a plain hook is a plain `def`: {function!r}")
        second = function(**arguments)
    assert first == second, f"a pure function answers alike: {first!r}, then {second!r}"
    return first
