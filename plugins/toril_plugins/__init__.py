"""Toril's default plugins: option persistence and cleanup (retention)."""

from toril_plugins.retention.foreign import Foreign
from toril_plugins.retention.holds import Hold, Holds, hold, release
from toril_plugins.retention.requires import Requires
from toril_plugins.retention.reviewing import (
    Details,
    Due,
    Flows,
    FlowState,
    JobDetails,
    Postpone,
    Rewrite,
    Verdicts,
)
from toril_plugins.retention.values import Ceiling, IdWindow, Keep, Retention

__all__ = [
    "Ceiling",
    "Details",
    "Due",
    "FlowState",
    "Flows",
    "Foreign",
    "Hold",
    "Holds",
    "IdWindow",
    "JobDetails",
    "Keep",
    "Postpone",
    "Requires",
    "Retention",
    "Rewrite",
    "Verdicts",
    "hold",
    "release",
]
