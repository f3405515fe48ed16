"""Toril's default plugins: option persistence and cleanup (retention)."""

from toril_plugins.retention.values import Keep, Retention

__all__ = ["Keep", "Retention"]
