"""A fourth flow, as a user would add it: these files and a `Flow` value, nothing else."""
