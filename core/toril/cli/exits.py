"""What the exit codes of `toril` mean, and which error ends with which."""

from __future__ import annotations

from enum import IntEnum
from typing import NoReturn

from toril.errors import (
    ConfigurationError,
    GiveWay,
    InvalidJob,
    JobLocked,
    JobNotFound,
    JobRemoved,
    JobStateError,
    LockLost,
    ParentError,
    Reject,
    ServerError,
    TorilError,
)


class Exit(IntEnum):
    """The exit codes."""

    DONE = 0
    UNEXPECTED = 1
    """An error that nobody foresaw."""
    USAGE = 2
    """A wrong argument, an import that failed, a configuration that cannot work."""
    SERVER = 3
    """The server cannot be reached or written to."""
    NOT_FOUND = 4
    """There is no such job or queue."""
    REFUSED = 5
    """It was not done: it needs `--yes`, a plugin rejects it, a job is running."""
    FOUND_PROBLEM = 6
    """A check found something."""
    UNFINISHED = 7
    """A worker stopped with jobs that had not finished; they were put back."""
    INTERRUPTED = 130
    """Ctrl-C."""


_CODES: tuple[tuple[type[TorilError], Exit], ...] = (
    (ConfigurationError, Exit.USAGE),
    (InvalidJob, Exit.USAGE),
    (ServerError, Exit.SERVER),
    (JobNotFound, Exit.NOT_FOUND),
    (JobRemoved, Exit.NOT_FOUND),
    (Reject, Exit.REFUSED),
    (GiveWay, Exit.REFUSED),
    (JobLocked, Exit.REFUSED),
    (JobStateError, Exit.REFUSED),
    (LockLost, Exit.REFUSED),
    (ParentError, Exit.REFUSED),
)


class CommandError(Exception):
    """Ends a command with a message and an exit code."""

    def __init__(self, message: str, code: Exit) -> None:
        super().__init__(message)
        self.code = code


def not_found(message: str) -> NoReturn:
    """End the command: what it is about does not exist."""
    raise CommandError(message, Exit.NOT_FOUND)


def refused(message: str) -> NoReturn:
    """End the command: it was not done, and the message says what would make it so."""
    raise CommandError(message, Exit.REFUSED)


def exit_code(error: TorilError) -> Exit:
    """The exit code for an error of Toril."""
    return next((code for kind, code in _CODES if isinstance(error, kind)), Exit.UNEXPECTED)
