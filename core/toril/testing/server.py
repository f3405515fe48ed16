"""A server for one run of tests: nobody else's, empty for each test, gone afterwards."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import Any, Final, Self
from urllib.parse import quote

from redis import Redis

from toril.connection.embedded import Membership, embedded_directory

_AGE: Final = """
local cursor = '0'
repeat
    local page = redis.call('SCAN', cursor, 'COUNT', 1000)
    cursor = page[1]
    for _, key in ipairs(page[2]) do
        local left = redis.call('PTTL', key)
        local beats = key:find(':lock$') or key:find(':toril:lease:') or key:find(':toril:call:')
        if left >= 0 and not beats then
            if left > tonumber(ARGV[1]) then
                redis.call('PEXPIRE', key, string.format('%.0f', left - ARGV[1]))
            else
                redis.call('DEL', key)
            end
        end
    end
until cursor == '0'
"""


class EmbeddedServer:
    """A running server in a temporary directory, the same that `embedded:DIR` starts.

    `start` makes one, `stop` ends it and removes its directory.
    """

    def __init__(self, socket: Path, stack: ExitStack) -> None:
        self._stack = stack
        self.url: str = f"unix://{quote(str(socket))}"
        """Its URL, for an App, for the command line, and for other clients."""
        # Typed loosely: redis-py's own types say of every reply that it may be anything.
        self.client: Any = Redis(
            unix_socket_path=str(socket), decode_responses=True, encoding_errors="backslashreplace"
        )
        """A plain synchronous client that decodes replies, to set up and to look."""
        stack.callback(self.client.close)

    @classmethod
    def start(cls) -> Self:
        """Start one.

        Raises:
            ConfigurationError: There is no server program; `pip install 'toril[testing]'`.
            ServerUnavailable: It does not start.
        """
        with ExitStack() as stack:
            url = stack.enter_context(embedded_directory())
            membership = Membership(Path(url.removeprefix("embedded:")))
            socket = membership.join()
            stack.callback(membership.leave)
            made = cls(socket, stack)
            # Nothing of a test outlives it.
            made.client.config_set("appendonly", "no")
            made._stack = stack.pop_all()
        return made

    def stop(self) -> None:
        """End it; its directory goes."""
        self._stack.close()

    def empty(self) -> None:
        """Remove everything that is stored."""
        self.client.flushall()

    def age(self, ms: int) -> None:
        """Let every key that expires get older by `ms` milliseconds, in one step.

        Not the locks of jobs, the leases of services and the records of calls: running processes
        renew them in real time, whatever clock an App is given.
        """
        self.client.eval(_AGE, 0, ms)
