"""Reference data in Dagster: the MySQL rows and Redis values of the example, and their job.

Belongs here: the two assets and the job that loads them. Does not belong here: the data
(`operations/reference_data.py`) and the effect of a change (`flow_assets.py`).
"""

import dagster as dg

from kp_platform.adapters.kafka import KafkaAdapter
from kp_platform.adapters.mysql import MySQLAdapter
from kp_platform.adapters.redis import RedisAdapter
from kp_platform.operations import reference_data
from kp_platform.orchestration.asset_keys import GROUP, REFERENCE_ROWS, REFERENCE_VALUES
from kp_platform.orchestration.jobs import AssetJob, asset_job


def reference_assets() -> list[dg.AssetsDefinition]:
    """The example's rows and values; materializing them loads the data."""

    @dg.asset(
        key=REFERENCE_ROWS,
        kinds={"mysql"},
        group_name=GROUP,
        description="Table testing.tests in MySQL: the known names. Loading keeps existing ids.",
    )
    def reference_rows(
        mysql: dg.ResourceParam[MySQLAdapter], kafka: dg.ResourceParam[KafkaAdapter]
    ) -> dg.MaterializeResult[None]:
        count = reference_data.seed_rows(mysql, kafka.publish_changes)
        return dg.MaterializeResult(metadata={"dagster/row_count": count})

    @dg.asset(
        key=REFERENCE_VALUES,
        kinds={"redis"},
        group_name=GROUP,
        description="String keys in Redis: the URL of each name. Loading overwrites the values.",
    )
    def reference_values(
        redis: dg.ResourceParam[RedisAdapter], kafka: dg.ResourceParam[KafkaAdapter]
    ) -> dg.MaterializeResult[None]:
        count = reference_data.seed_values(redis, kafka.publish_changes)
        return dg.MaterializeResult(metadata={"dagster/row_count": count})

    return [reference_rows, reference_values]


def reference_job() -> AssetJob:
    """Load the reference data, like `kp seed`."""
    return asset_job(
        "seed_reference_data",
        [REFERENCE_ROWS, REFERENCE_VALUES],
        "Load the example's rows into MySQL and its values into Redis; repeatable.",
        tags={},
    )
