"""Runs calls, reads and procedures on a server and keeps what they did."""

from __future__ import annotations

from collections.abc import Generator
from typing import Any

import redis

from toril.connection.call import Call, Read
from toril.job_events import JobEvent
from toril.protocol.effects import ChunkError, Effects, Report
from toril_lua.catalogue import Chunk, compose


class Runner:
    """Runs what it is called with, synchronously; `events` are those of everything run so far.

    `chunks` are composed into every script. `requests` counts what was sent.
    """

    def __init__(self, client: redis.Redis, chunks: tuple[Chunk, ...] = ()) -> None:
        self._client = client
        self._chunks = chunks
        self.events: list[JobEvent] = []
        self.chunk_errors: list[ChunkError] = []
        self.reports: list[Report] = []
        self.requests: list[Any] = []

    def __call__(self, operation: Any) -> Any:
        if isinstance(operation, Generator):
            return self._procedure(operation)
        self.requests.append(operation)
        if isinstance(operation, Read):
            commands = () if operation.shard else operation.commands  # this is the only server
            return operation.parse([self.raw(*command) for command in commands])
        assert isinstance(operation, Call)
        script = compose(operation.script, self._chunks)
        keys = operation.keys
        result = operation.parse(self.raw("EVAL", script.text, len(keys), *keys, *operation.args))
        if not isinstance(result, Effects):
            return result
        self.events += result.events
        self.chunk_errors += result.chunk_errors
        self.reports += result.reports
        return result.value

    def _procedure(self, procedure: Generator[Any, Any, Any]) -> Any:
        answer: Any = None
        while True:
            try:
                request = procedure.send(answer)
            except StopIteration as stop:
                return stop.value
            answer = self(request)

    def raw(self, *command: Any) -> Any:
        """The raw reply of a command; an error of the server is raised."""
        connection: Any = self._client.connection_pool.get_connection()
        try:
            connection.send_command(*command)
            return connection.read_response(disable_decoding=True)
        finally:
            self._client.connection_pool.release(connection)
