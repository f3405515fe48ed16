"""Benchmarks against the peers; run by hand, never asserted in timed tests."""
