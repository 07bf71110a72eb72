"""Keys of the asset graph that several features refer to, and the group of all assets.

Belongs here: keys. Does not belong here: the assets, which are declared by their features.
"""

import dagster as dg

from kp_platform.flows.model import AnyFlow

# One group: Dagster's asset graph collapses several groups and hides the lineage between them.
GROUP = "enriched_logs"
REFERENCE_ROWS = dg.AssetKey(["mysql", "testing.tests"])
REFERENCE_VALUES = dg.AssetKey(["redis", "test.string"])
REFERENCE_KEYS = {"mysql": REFERENCE_ROWS, "redis": REFERENCE_VALUES}


def topic_key(flow: AnyFlow) -> dg.AssetKey:
    """The topic that a flow reads."""
    return dg.AssetKey(["kafka", flow.topic])


def flow_key(flow: AnyFlow) -> dg.AssetKey:
    """The documents that a flow writes."""
    return dg.AssetKey(flow.asset)
