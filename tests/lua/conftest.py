from __future__ import annotations

from collections.abc import Iterator

import pytest
import redis
from redis.exceptions import OutOfMemoryError
from tests.conftest import ServerFactory
from tests.lua.running import Runner
from tests.lua.seeding import Seed


@pytest.fixture
def run(raw: redis.Redis) -> Runner:
    """Runs operations on the empty database of the test."""
    return Runner(raw)


@pytest.fixture
def seed(raw: redis.Redis) -> Seed:
    """Writes jobs into the empty database of the test."""
    return Seed(raw)


@pytest.fixture
def own_server(fresh_server: ServerFactory) -> Iterator[redis.Redis]:
    """A client of a server of the test's own, which it may fill with `fill`."""
    with fresh_server(maxmemory_policy="noeviction").client() as client:
        yield client


def fill(client: redis.Redis) -> None:
    """Let the memory of a server be full from now on."""
    client.config_set("maxmemory", "1")
    with pytest.raises(OutOfMemoryError):
        client.set("refused", "x")
