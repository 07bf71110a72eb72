"""Unit tests: bad_input."""
