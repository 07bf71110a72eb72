"""The way of a slice: plan, query, documents, bulk, position. Pure Python, without Dagster."""
