"""Faults injected into the real stack, and the oracle that says what they cost."""
