"""What tests of the default plugins share: an App whose clock moves by hand."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
from tests.support.place import START

from toril import App
from toril.plugins import ManualClock


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock(START)


@pytest.fixture
async def app(redis_url: str, clock: ManualClock) -> AsyncIterator[App]:
    async with App(redis_url, plugins=["persistence", "cleanup"], clock=clock) as made:
        yield made
