"""Unit tests: analytics."""
