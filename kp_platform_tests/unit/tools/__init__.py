"""Unit tests: tools."""
