"""What the jobs of all features share, such as the tags of their runs.

Belongs here: constants, and the declaration of a job on assets or of one op. Does not belong here:
the jobs, which are declared beside their assets and ops.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import dagster as dg

AssetJob = Any  # the return type of define_asset_job has no public name
# Run monitoring ends a run whose machine is gone after this time; other runs end long before.
MAX_RUNTIME_SECONDS = 3600
RUN_TAGS = {
    "dagster/max_runtime": str(MAX_RUNTIME_SECONDS),
    "dagster/max_retries": "0",  # the next run is started by a sensor after a pause, or by a user
}


def asset_job(
    name: str, assets: Sequence[dg.AssetKey], description: str, tags: Mapping[str, str] = RUN_TAGS
) -> AssetJob:
    """A job that materializes assets."""
    return dg.define_asset_job(
        name=name,
        selection=dg.AssetSelection.assets(*assets),
        description=description,
        tags=dict(tags),
    )


def op_job(name: str, op: dg.OpDefinition, description: str) -> dg.JobDefinition:
    """A job of one op."""

    @dg.job(name=name, description=description, tags=RUN_TAGS)
    def run_op() -> None:
        op()

    return run_op
