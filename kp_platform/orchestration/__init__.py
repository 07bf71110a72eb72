"""Dagster, by feature: the only folder that imports it."""
