"""An App without plugins, and one with a plugin that notes what it is told."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
from tests.nouns.witness import Witness

from toril import App


@pytest.fixture
async def app(redis_url: str) -> AsyncIterator[App]:
    async with App(redis_url, plugins=[]) as made:
        yield made


@pytest.fixture
def witness() -> Witness:
    return Witness()


@pytest.fixture
async def watched(redis_url: str, witness: Witness) -> AsyncIterator[App]:
    async with App(redis_url, plugins=[witness]) as made:
        yield made
