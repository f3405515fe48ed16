"""How one request is carried out, whatever the server says or fails to say."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from redis.exceptions import RedisError

from toril.connection.call import Call, Read, Request, Resend
from toril.connection.endpoint import Address, Server
from toril.connection.faults import Reaction, fault_of, hopeless, nobody_listens, typed_error
from toril.connection.route import Route
from toril.connection.scripts import ScriptSet
from toril.connection.steps import (
    Command,
    Exchange,
    Forget,
    NotSent,
    Pause,
    Refused,
    ReplyLost,
    Steps,
)
from toril.errors import ConfigurationError, IndeterminateError, ServerError, ServerUnavailable

FIRST_PAUSE = 0.02
LONGEST_PAUSE = 1.0

_KEYLESS = frozenset(
    {"ACL", "CLIENT", "CLUSTER", "CONFIG", "INFO", "LATENCY", "PING", "ROLE", "SCAN", "TIME"}
)
_KEY_AFTER_SUBCOMMAND = frozenset({"MEMORY", "OBJECT", "XINFO"})


@dataclass(frozen=True, slots=True)
class Patience:
    """How long to go on trying.

    `total`: seconds after which a request fails; None: never. `recorded`: seconds for which a
    call with a record may be sent again after its reply was lost; less than the record lives.
    """

    total: float | None = 10.0
    recorded: float = 90.0


PRODUCER = Patience()


@dataclass(frozen=True, slots=True)
class _Turn:
    """One attempt: the server to ask (None: find out which). `load`: give it the script first."""

    server: Server | None = None
    load: bool = False


_FIRST = _Turn()


def pause_before(attempt: int) -> float:
    """Seconds before the attempt after the `attempt`-th failure: doubling, with jitter."""
    longest = min(LONGEST_PAUSE, FIRST_PAUSE * 2.0 ** min(attempt - 1, 10))
    return longest * random.uniform(0.5, 1.0)


def converse(
    route: Route,
    scripts: ScriptSet,
    request: Request,
    patience: Patience = PRODUCER,
    clock: Callable[[], float] = time.monotonic,
) -> Steps[Any]:
    """Carry out `request` and return its parsed result.

    Raises:
        ServerUnavailable: it could not be done in time, and nothing was done.
        IndeterminateError: a reply was lost, and asking again was not allowed or of no use.
        ServerFull, ConfigurationError, ServerError: the server refused for good.
        Exception: what the request's `parse` raises.
    """
    trial = _Trial(route, scripts, request, patience, clock)
    turn = _FIRST
    while True:
        try:
            replies = yield from trial.take(turn)
            break
        except (NotSent, ReplyLost, Refused) as problem:
            turn = yield from trial.after(problem, turn)
    if isinstance(request, Read):
        return request.parse(replies)
    try:
        return request.parse(replies[0])
    except IndeterminateError as error:
        raise IndeterminateError(str(error), error.job_ids or request.job_ids) from error


def command_of(call: Call[Any], scripts: ScriptSet) -> Command:
    """The call as a command, for a server that knows the script."""
    sha1 = scripts[call.script].sha1
    return ("EVALSHA", sha1, len(call.keys), *call.keys, *call.args)


def routing_key(command: Command) -> str | bytes | None:
    """The key by which a cluster knows who answers `command`; None: any node."""
    name = str(command[0]).upper()
    if name in _KEYLESS:
        return None
    if name in ("XREAD", "XREADGROUP"):
        words = [word.upper() if isinstance(word, str) else word for word in command]
        position = words.index("STREAMS") + 1
    else:
        position = 2 if name in _KEY_AFTER_SUBCOMMAND else 1
    key = command[position] if len(command) > position else None
    return key if isinstance(key, str | bytes) else None


def redirection(error: RedisError, asked: Server) -> tuple[int, Address]:
    """The slot and the node that a MOVED names; a node without a name is the one asked."""
    slot, _, place = str(error).removeprefix("MOVED ").partition(" ")
    host, _, port = place.rpartition(":")
    return int(slot), Address(host or asked.address.host, int(port))


class _Trial:
    """The attempts at one request: what went wrong so far, and whether to go on."""

    _failures = 0
    _redirects = 0
    _lost_since: float | None = None

    def __init__(
        self,
        route: Route,
        scripts: ScriptSet,
        request: Request,
        patience: Patience,
        clock: Callable[[], float],
    ) -> None:
        self._route = route
        self._scripts = scripts
        self._request = request
        if isinstance(request, Read):
            self._commands, self._key = request.commands, routing_key(request.commands[0])
        else:
            self._commands, self._key = (command_of(request, scripts),), request.keys[0]
        self._patience = patience
        self._clock = clock
        self._start = clock()

    def take(self, turn: _Turn) -> Steps[list[Any]]:
        """One attempt: the replies to the commands of the request."""
        server = turn.server
        if isinstance(self._request, Read) and self._request.shard is not None:
            shards = yield from self._route.masters()
            if self._request.shard >= len(shards):
                return []
            server = shards[self._request.shard]
        server = server or self._route.holder or (yield from self._route.locate(self._key))
        commands = self._commands
        if turn.load and isinstance(self._request, Call):
            text = self._scripts[self._request.script].text
            commands = (("SCRIPT", "LOAD", text), *commands)
        replies: list[Any] = yield Exchange(server, commands, asked=True)
        for reply in replies:
            if isinstance(reply, RedisError):
                raise Refused(reply, server)
        if turn.load:
            del replies[0]
        return replies

    def after(self, problem: NotSent | ReplyLost | Refused, turn: _Turn) -> Steps[_Turn]:
        """What to try next, after the pause that this takes; raises if that is the end."""
        if isinstance(problem, Refused):
            return (yield from self._refused(problem, turn))
        if isinstance(problem, ReplyLost) and isinstance(self._request, Call):
            if self._lost_since is None:
                self._lost_since = self._clock()
            if self._request.resend is Resend.NEVER:
                raise self._final(ServerUnavailable(str(problem)), problem)
        if (hint := hopeless(problem.__cause__)) is not None:
            raise self._final(ConfigurationError(f"{self._where()}: {problem} ({hint})"), problem)
        yield from self._leave(problem.server)
        hint = " (is a server running there?)" if nobody_listens(problem.__cause__) else ""
        yield from self._wait(ServerUnavailable(f"{self._where()}: {problem}{hint}"), problem)
        return _Turn()

    def _refused(self, problem: Refused, turn: _Turn) -> Steps[_Turn]:
        error, asked = problem.error, problem.server
        fault = fault_of(error)
        final = typed_error(error, self._where())
        match fault.reaction:
            case Reaction.LOAD if not turn.load:
                return _Turn(asked, load=True)
            case Reaction.LOAD | Reaction.WAIT:
                yield from self._wait(final, error)
                return _Turn()
            case Reaction.REDIRECT:
                self._redirects += 1
                if self._redirects > 3:  # two nodes send us to each other while a slot moves
                    yield from self._wait(final, error)
                slot, address = redirection(error, asked)
                return _Turn(self._route.redirect(slot, address))
            case Reaction.MOVE:
                yield from self._leave(asked)
                yield from self._wait(final, error)
                return _Turn()
            case _:
                raise self._final(final, error)

    def _leave(self, server: Server | None) -> Steps[None]:
        self._route.forget()
        if server is not None:
            yield Forget(server)

    def _wait(self, final: ServerError | ConfigurationError, cause: Exception) -> Steps[None]:
        """Pause, or raise `final` if the time is up."""
        now = self._clock()
        self._failures += 1
        seconds = pause_before(self._failures)
        total = self._patience.total
        if total is not None and now + seconds - self._start > total:
            raise self._final(final, cause)
        if (
            self._lost_since is not None
            and isinstance(self._request, Call)
            and self._request.resend is Resend.RECORDED
            and now + seconds - self._lost_since > self._patience.recorded
        ):
            raise self._final(final, cause)
        yield Pause(seconds)

    def _final(self, error: ServerError | ConfigurationError, cause: Exception) -> Exception:
        error.__cause__ = cause
        if self._lost_since is None or not isinstance(self._request, Call):
            return error
        names = ", ".join(self._request.job_ids[:5]) or "none named"
        doubt = IndeterminateError(
            f"{self._where()}: the reply to {self._request.script!r} was lost, so it may have "
            f"happened or not (jobs: {names}); {error}",
            self._request.job_ids,
        )
        doubt.__cause__ = cause
        return doubt

    def _where(self) -> str:
        return str(self._route.endpoint)
