"""Toril's default plugins: option persistence and cleanup (retention)."""

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
    "IdWindow",
    "JobDetails",
    "Keep",
    "Postpone",
    "Retention",
    "Rewrite",
    "Verdicts",
]
