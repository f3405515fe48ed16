"""Reaching the server: what a user names, requests carried out, waits, an embedded server."""
