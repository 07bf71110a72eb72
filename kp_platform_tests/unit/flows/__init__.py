"""Unit tests: flows."""
