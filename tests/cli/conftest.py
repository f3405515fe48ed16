"""What the tests of the command line share: installed plugins that it finds."""

from __future__ import annotations

from tests.hooks.conftest import site

__all__ = ["site"]
