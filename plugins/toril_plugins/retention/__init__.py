"""Retention as a value: what can be said, how levels resolve, BullMQ's shape of it."""
