"""Tests of Toril, run against a real server."""
