"""Unit tests: orchestration."""
