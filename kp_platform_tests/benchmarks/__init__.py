"""Benchmarks, which are run manually: their figures depend on the machine."""
