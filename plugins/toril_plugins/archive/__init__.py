"""Archive: jobs are copied to safety before retention removes them.

Off until it is configured. A job that was archived is found by `result()`, listed by
`toril archive ls`, and put back by `toril archive restore`.
"""

from toril_plugins.archive.config import ArchiveConfig
from toril_plugins.archive.plugin import Archive
from toril_plugins.archive.record import ArchivedJob, UnreadableRecord
from toril_plugins.archive.store import STORE_KIND, ArchiveStore, OpenStore, Page, Wanted

__all__ = [
    "STORE_KIND",
    "Archive",
    "ArchiveConfig",
    "ArchiveStore",
    "ArchivedJob",
    "OpenStore",
    "Page",
    "UnreadableRecord",
    "Wanted",
]
