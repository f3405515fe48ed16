"""Tests that share one server with BullMQ for Node and for Python."""
