"""What the tests of the connection layer share: executors, small scripts, a proxy."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import pytest
from tests.support.proxy import FaultProxy
from tests.support.server import Server

from toril.connection.call import Argument, Call, Read, Resend
from toril.connection.conversation import Patience
from toril.connection.endpoint import Endpoint
from toril.connection.execute import Executor, SyncExecutor
from toril.connection.open import open_endpoint
from toril.connection.scripts import ScriptSet
from toril_lua import Script

TEXTS = {
    "count": "return redis.call('INCR', KEYS[1])",
    "put": "redis.call('SET', KEYS[1], ARGV[1]) return 'done'",
    # Keeps each value's place as its record.
    "append": """
        local place = redis.call('HGET', KEYS[1] .. ':places', ARGV[1])
        if place then return tonumber(place) end
        place = redis.call('RPUSH', KEYS[1], ARGV[1])
        redis.call('HSET', KEYS[1] .. ':places', ARGV[1], place)
        return place
    """,
    # Like a real one: the call record in place of the effect, and numbers that only grow.
    "recorded": """
        local kept = redis.call('GET', KEYS[1] .. ':record')
        if kept and tonumber(kept) == tonumber(ARGV[1]) then
            return {'again', tonumber(redis.call('GET', KEYS[1]))}
        end
        local value = redis.call('INCR', KEYS[1])
        redis.call('SET', KEYS[1] .. ':record', ARGV[1])
        return {'first', value}
    """,
}


class Scripts(ScriptSet):
    """The scripts of these tests, in place of the catalogue's."""

    def __getitem__(self, name: str) -> Script:
        text = TEXTS[name]
        return Script(name, text, hashlib.sha1(text.encode()).hexdigest())


def call(script: str, *args: Argument, resend: Resend = Resend.NEVER, key: str = "k") -> Call[Any]:
    return Call(script, (key,), args, lambda reply: reply, resend, ("job-1", "job-2"))


def read(*words: Argument) -> Read[Any]:
    return Read((words,), lambda replies: replies[0])


def limited_user(server: Server, *rights: str) -> str:
    """The URL of a user with these rights, as in `ACL SETUSER`."""
    with server.client() as admin:
        admin.execute_command("ACL", "SETUSER", "limited", "on", ">pw", *rights)
    return f"redis://limited:pw@127.0.0.1:{server.port}"


SHORT = Patience(total=0.3)

Faces = Callable[..., "Face"]


class Face:
    """One executor of either kind, asked in one way."""

    def __init__(self, endpoint: Endpoint, *, sync: bool, patience: Patience | None) -> None:
        chosen = patience or Patience()
        self.executor: Executor | SyncExecutor = (
            SyncExecutor(endpoint, Scripts(), patience=chosen)
            if sync
            else Executor(endpoint, Scripts(), patience=chosen)
        )

    async def run(self, request: Call[Any] | Read[Any]) -> Any:
        if isinstance(self.executor, SyncExecutor):
            return self.executor.run(request)
        return await self.executor.run(request)

    async def close(self) -> None:
        if isinstance(self.executor, SyncExecutor):
            self.executor.close()
        else:
            await self.executor.aclose()


@pytest.fixture(params=["async", "sync"])
async def face(request: pytest.FixtureRequest) -> AsyncIterator[Faces]:
    """Make executors: each test that asks for it runs once with each kind."""
    made: list[Face] = []

    def make(target: object, patience: Patience | None = None) -> Face:
        made.append(Face(open_endpoint(target), sync=request.param == "sync", patience=patience))
        return made[-1]

    yield make
    for one in made:
        await one.close()


@pytest.fixture
def proxy(server: Server, redis_url: str) -> Iterator[FaultProxy]:
    with FaultProxy.start(server.port) as running:
        yield running
