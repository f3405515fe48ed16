"""The fixtures themselves: what every other test takes for granted."""

from __future__ import annotations

import os
from collections.abc import Callable

import pytest
import redis
import redis.asyncio

from tests.support.server import Server, ServerError

ServerFactory = Callable[..., Server]


@pytest.mark.parametrize("visit", [1, 2])
def test_database_is_empty_for_every_test(raw: redis.Redis, visit: int) -> None:
    assert raw.dbsize() == 0
    raw.set("left", visit)


async def test_both_clients_see_the_same_database(
    raw: redis.Redis, raw_async: redis.asyncio.Redis
) -> None:
    raw.set("here", "yes")
    assert await raw_async.get("here") == "yes"


def test_server_listens_on_loopback_and_unix_socket_only(server: Server, raw: redis.Redis) -> None:
    assert raw.config_get("bind") == {"bind": "127.0.0.1"}
    with redis.Redis(unix_socket_path=str(server.socket_path)) as client:
        assert client.ping()


def test_fresh_server_has_its_own_settings_and_ends(fresh_server: ServerFactory) -> None:
    own = fresh_server(maxmemory="4mb")
    with own.client() as client:
        assert client.config_get("maxmemory") == {"maxmemory": str(4 * 1024 * 1024)}
    own.stop()
    with pytest.raises(ProcessLookupError):
        os.kill(own.pid, 0)
    assert not own.directory.exists()


def test_wrong_directive_is_explained(fresh_server: ServerFactory) -> None:
    with pytest.raises(ServerError, match="no-such-directive"):
        fresh_server(no_such_directive="1")
