"""Contracts for plugins that say how long jobs are kept, hold them back, or copy them.

An author inherits them in a class of tests; see `docs/plugins/testing.md`. What they are built on,
fixtures and the contract of every plugin, is `toril.testing`.
"""

from toril_plugins.testing.archive import ArchiveContract, Copy
from toril_plugins.testing.review import ReviewContract
from toril_plugins.testing.store import ARCHIVED, ArchiveStoreContract
from toril_plugins.testing.strategy import StrategyContract

__all__ = [
    "ARCHIVED",
    "ArchiveContract",
    "ArchiveStoreContract",
    "Copy",
    "ReviewContract",
    "StrategyContract",
]
