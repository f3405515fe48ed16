"""What each error of the server means, and what is done about it."""

from __future__ import annotations

import re
import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum

from redis import exceptions as redis_errors

from toril.errors import ConfigurationError, ServerError, ServerFull, ServerUnavailable


class Reaction(Enum):
    """What to do after an error. In every case the server has done nothing of what was asked."""

    WAIT = "wait"
    """Ask the same server again, a little later."""
    MOVE = "move"
    """Drop the connections, find out anew which server to ask, and ask again a little later."""
    LOAD = "load"
    """Give the server the script and ask again at once."""
    REDIRECT = "redirect"
    """Ask the server that the error names, now and from now on."""
    RAISE = "raise"
    """Tell the caller."""


@dataclass(frozen=True, slots=True)
class Fault:
    """The reaction to one error code; `error` is raised when it is of no (further) use."""

    reaction: Reaction
    error: type[ServerError | ConfigurationError]
    hint: str = ""


ANSWERS = (
    redis_errors.ResponseError,
    redis_errors.BusyLoadingError,
    redis_errors.AuthenticationError,
    redis_errors.AuthorizationError,
)
"""Errors that the server said. redis-py counts some of them among the broken connections."""

_LOGIN = Fault(
    Reaction.RAISE,
    ConfigurationError,
    "check the user name and the password in the URL",
)

FAULTS: Mapping[str, Fault] = {
    "LOADING": Fault(Reaction.WAIT, ServerUnavailable, "the server is loading its data"),
    "BUSY": Fault(Reaction.WAIT, ServerUnavailable, "a script is keeping the server busy"),
    "TRYAGAIN": Fault(Reaction.WAIT, ServerUnavailable, "the cluster is moving these keys"),
    "NOREPLICAS": Fault(
        Reaction.WAIT, ServerUnavailable, "too few replicas are connected to accept a write"
    ),
    "MISCONF": Fault(Reaction.WAIT, ServerUnavailable, "the server cannot write to its disk"),
    "READONLY": Fault(Reaction.MOVE, ServerUnavailable, "this server is a replica"),
    "UNBLOCKED": Fault(Reaction.MOVE, ServerUnavailable, "the server has become a replica"),
    "MASTERDOWN": Fault(Reaction.MOVE, ServerUnavailable, "the replica has lost its master"),
    "CLUSTERDOWN": Fault(Reaction.MOVE, ServerUnavailable, "the cluster is not complete"),
    "NOSCRIPT": Fault(Reaction.LOAD, ServerError, "the server drops scripts at once"),
    "MOVED": Fault(Reaction.REDIRECT, ServerUnavailable, "the cluster is moving these keys"),
    # Never followed: a queue is worked on where all of its keys are, and a script asked there would
    # find only those that have arrived.
    "ASK": Fault(Reaction.WAIT, ServerUnavailable, "the cluster is moving these keys"),
    "OOM": Fault(Reaction.RAISE, ServerFull, "the server has reached its maxmemory"),
    "NOAUTH": _LOGIN,
    "WRONGPASS": _LOGIN,
    "NOPERM": Fault(
        Reaction.RAISE, ConfigurationError, "give the user this right in the server's ACL"
    ),
    "CROSSSLOT": Fault(
        Reaction.RAISE,
        ConfigurationError,
        "in a cluster all queues of one flow need the same {tag} in the prefix or in their names",
    ),
}

_OTHER = Fault(Reaction.RAISE, ServerError)

# redis-py takes the code off the message of the errors that it has classes for.
_CODES: Mapping[type[Exception], str] = {
    redis_errors.AskError: "ASK",
    redis_errors.AuthenticationError: "NOAUTH",
    redis_errors.AuthenticationWrongNumberOfArgsError: "NOAUTH",
    redis_errors.AuthorizationError: "NOPERM",
    redis_errors.BusyLoadingError: "LOADING",
    redis_errors.ClusterCrossSlotError: "CROSSSLOT",
    redis_errors.ClusterDownError: "CLUSTERDOWN",
    redis_errors.MasterDownError: "MASTERDOWN",
    redis_errors.MovedError: "MOVED",
    redis_errors.NoPermissionError: "NOPERM",
    redis_errors.NoScriptError: "NOSCRIPT",
    redis_errors.OutOfMemoryError: "OOM",
    redis_errors.ReadOnlyError: "READONLY",
    redis_errors.TryAgainError: "TRYAGAIN",
}

_CODE = re.compile(r"-?([A-Z]{2,})(?= |$)")
# Redis 6.2 wraps what a script ran into: "ERR Error running script …: -OOM command not …".
_WITHIN_A_SCRIPT = re.compile(r"Error running script .*?-([A-Z]{3,}) ")


def error_code(error: Exception) -> str:
    """The server's code for `error`, such as `READONLY`; empty if it gave none."""
    if (code := _CODES.get(type(error))) is not None:
        return code
    text = str(error)
    if (inner := _WITHIN_A_SCRIPT.search(text)) is not None:
        return inner[1]
    match = _CODE.match(text)
    return match[1] if match else ""


def fault_of(error: Exception) -> Fault:
    """What to do about an error that the server answered with."""
    return FAULTS.get(error_code(error), _OTHER)


def typed_error(error: Exception, where: str) -> ServerError | ConfigurationError:
    """The error that the caller gets. `where` names the server, without secrets."""
    fault = fault_of(error)
    text = f"{where}: {error}"
    return fault.error(f"{text} ({fault.hint})" if fault.hint else text)


def hopeless(error: BaseException | None) -> str | None:
    """Why it is of no use to try this connection again, or None if it may come right by itself."""
    while error is not None:
        if isinstance(error, ssl.SSLCertVerificationError):
            return "name a CA with ?ssl_ca_certs=FILE, or correct the host name"
        if isinstance(error, redis_errors.AuthenticationError | redis_errors.AuthorizationError):
            return _LOGIN.hint
        if isinstance(error, redis_errors.ResponseError) and fault_of(error).error is (
            ConfigurationError
        ):
            return fault_of(error).hint
        error = error.__cause__ or error.__context__
    return None


def nobody_listens(error: BaseException | None) -> bool:
    """Whether a connection failed because there is no server at that address."""
    while error is not None:
        if isinstance(error, ConnectionRefusedError | FileNotFoundError):
            return True
        error = error.__cause__ or error.__context__
    return False
