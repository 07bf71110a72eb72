"""The five connections as Dagster resources, each with the verbs of our domain."""
