"""Unit tests: operations."""
