"""Toril's default plugins: option persistence and cleanup (retention)."""

from toril_plugins.retention.values import Ceiling, IdWindow, Keep, Retention

__all__ = ["Ceiling", "IdWindow", "Keep", "Retention"]
