"""The jobs: one for each flow, and one that loads the reference data.

Belongs here: which assets run together, on which executor. Does not belong here: what they do.
"""

from typing import Any

import dagster as dg

from kp_platform.flows.model import AnyFlow
from kp_platform.orchestration.flow_assets import REFERENCE_ROWS, REFERENCE_VALUES, flow_asset_key

AssetJob = Any  # what define_asset_job returns has no public name
FLOW_TAG = "kp/flow"
# On runs that take some partitions of a flow only, e.g. `0-5`.
ASSIGNMENT_TAG = "kp/assignment"
# After this Dagster's run monitoring ends a run whose machine is gone; runs end long before.
MAX_RUNTIME_SECONDS = 3600
SENSOR_RUN_TAGS = {
    "dagster/max_runtime": str(MAX_RUNTIME_SECONDS),
    "dagster/max_retries": "0",  # the sensor starts the next run, with a pause
}


def indexing_job(flow: AnyFlow) -> AssetJob:
    """Take a flow's topic until idle. In one process: a step of its own would cost 2.5 s."""
    return dg.define_asset_job(
        name=f"index_{flow.name}",
        selection=dg.AssetSelection.assets(flow_asset_key(flow)),
        description=f"Take topic {flow.topic} in slices until caught up, then follow until idle.",
        executor_def=dg.in_process_executor,
        tags={FLOW_TAG: flow.name, **SENSOR_RUN_TAGS},
    )


def reference_job() -> AssetJob:
    """Load the reference data, as `kp seed` does."""
    return dg.define_asset_job(
        name="seed_reference_data",
        selection=dg.AssetSelection.assets(REFERENCE_ROWS, REFERENCE_VALUES),
        description="Load the example's rows into MySQL and its values into Redis; repeatable.",
        executor_def=dg.in_process_executor,
    )
