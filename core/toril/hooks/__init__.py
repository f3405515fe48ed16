"""Hooks: their specifications, loading plugins, and calling them."""
