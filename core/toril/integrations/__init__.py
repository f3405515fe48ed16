"""Toril in web frameworks, each in an extra of its own."""
