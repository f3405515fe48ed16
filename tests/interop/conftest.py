"""What the interop tests share."""

from __future__ import annotations

import pytest

from tests.conftest import Library

__all__ = ["Library"]


@pytest.fixture(scope="session")
def references() -> dict[str, list[str]]:
    """What Node leaves behind when it plays both roles, by scenario; filled as tests need it."""
    return {}
