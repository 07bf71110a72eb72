"""Fault injection: the fault matrix, its load generator and its oracle (`make faults`)."""
