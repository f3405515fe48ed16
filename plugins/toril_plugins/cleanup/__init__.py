"""Cleanup: finished jobs go when what was said about them falls due.

The finishing script stores each decision in the same atomic step and removes at once what may go at
once; the sweeper does the rest. Strategies only answer *how long*: see
`toril_plugins.retention.hookspecs.toril_plan_retention`.
"""

from toril_plugins.cleanup.plugin import Cleanup, CleanupConfig

__all__ = ["Cleanup", "CleanupConfig"]
