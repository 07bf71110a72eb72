"""What the jobs of all features share: one process, and the tags of their runs.

Belongs here: constants, and the declaration of a job on assets. Does not belong here: the jobs,
which are declared beside their assets.
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
    """A job on assets that runs in one process: a process for each step would cost 2.5 s."""
    return dg.define_asset_job(
        name=name,
        selection=dg.AssetSelection.assets(*assets),
        description=description,
        executor_def=dg.in_process_executor,
        tags=dict(tags),
    )
