"""Toril: a job queue for Python on Redis and Valkey that shares its data with BullMQ."""

__version__ = "0.1.0.dev0"
