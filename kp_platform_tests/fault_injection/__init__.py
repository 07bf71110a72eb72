"""Fault injection: the fault matrix, the load generator and the oracle (`make faults`)."""
