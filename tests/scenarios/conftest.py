"""The stage of each scenario."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
import redis

from tests.conftest import Library
from tests.scenarios.stage import Stage


@pytest.fixture
async def stage(redis_url: str, raw: redis.Redis, library: Library) -> AsyncIterator[Stage]:
    made = Stage(redis_url, raw, library)
    yield made
    await made.aclose()
