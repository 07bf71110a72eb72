"""Tests that start a stack of their own (`make test-stacks`)."""
