"""A further flow is a declaration without code."""

import uuid
from typing import Any

import dagster as dg

from kp_platform.adapters.elasticsearch import ElasticsearchAdapter
from kp_platform.adapters.kafka import KafkaAdapter
from kp_platform.adapters.kafka_admin import KafkaAdmin
from kp_platform.adapters.mysql import MySQLAdapter
from kp_platform.definitions import build_definitions
from kp_platform.flows.builtin import FLOWS
from kp_platform.flows.loading import load_flow
from kp_platform.settings import Settings
from kp_platform_tests.integration.events import dead_letters, json_value, publish
from kp_platform_tests.stack import ROOT, Stack

ORDERS = load_flow(ROOT / "kp_platform_tests" / "toy_flow" / "orders")


def test_a_declared_flow_is_enriched_indexed_checked_and_watched(quiet_stack: Stack) -> None:
    """Nothing but the folder toy_flow/orders with its four files."""
    kafka, elasticsearch = KafkaAdapter(Settings()), ElasticsearchAdapter(Settings())
    KafkaAdmin(Settings()).create_topics({ORDERS.topic: 4})
    known, unknown = str(uuid.uuid4()), str(uuid.uuid4())
    [_, _, (partition, offset)] = publish(
        json_value(uuid=known, customer="kafka", euros="12.50"),
        json_value(uuid=unknown, customer="nobody", euros="many"),
        b"no order",
        topic=ORDERS.topic,
        partition=0,
    )
    definitions = build_definitions(flows=[*FLOWS, ORDERS])
    config = {"ops": {"shop_orders": {"config": {"follow_idle_seconds": 0}}}}
    with dg.DagsterInstance.ephemeral() as instance:
        sensor = definitions.resolve_sensor_def("orders_offsets")
        resources = {"settings": Settings(), "kafka": kafka, "elasticsearch": elasticsearch}
        with dg.build_sensor_context(instance=instance, resources=resources) as context:
            requested: Any = sensor(context)
        assert [type(each) for each in requested] == [dg.RunRequest]
        job = definitions.resolve_job_def("index_orders")
        result = job.execute_in_process(instance=instance, run_config=config)
    checks = {each.check_name: each.passed for each in result.get_asset_check_evaluations()}
    assert checks == {"slice_complete": True, "no_dead_letters": False, "no_gaps": True}
    found = {
        each.source["uuid"]: (each.source["customer_id"], each.source["total"])
        for identity in (known, unknown)
        for each in elasticsearch.find(ORDERS.index, "uuid", identity)
    }
    assert found == {known: (MySQLAdapter(Settings()).ids()["kafka"], 12.5), unknown: (None, None)}
    assert [each["reason"] for each in dead_letters(partition, offset, ORDERS.topic)] == [
        "not_json"
    ]
