"""Unit tests: docs."""
