"""Helpers shared by the tests: servers, foreign clients, dumps."""
