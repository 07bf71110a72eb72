"""Flows: the model, and one folder per built-in flow with its SQL, mapping and table file."""
