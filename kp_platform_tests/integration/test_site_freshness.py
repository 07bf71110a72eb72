"""The freshness of the logs, read from real servers."""

import anyio

from kp_platform.adapters.elasticsearch import ElasticsearchAdapter
from kp_platform.adapters.kafka import KafkaAdapter
from kp_platform.engine import heartbeat
from kp_platform.engine import lag as platform
from kp_platform.flows.builtin import FLOWS
from kp_platform.settings import Settings
from kp_platform_tests.conftest import wait_for
from kp_platform_tests.integration.events import Event, publish, run_indexer
from kp_platform_tests.stack import Stack
from web_emitter.site.search import connection
from web_emitter.site.status.freshness import (
    ElasticsearchFreshness,
    Freshness,
    KafkaTopics,
)


def test_the_lag_equals_that_of_kp_lag(quiet_stack: Stack) -> None:
    publish(Event().value)
    run_indexer()
    publish(*(Event().value for _ in range(7)))
    settings = quiet_stack.settings

    async def read() -> Freshness:
        async with connection(settings.elasticsearch_url, 60) as client:
            topics = KafkaTopics(settings.kafka_bootstrap_servers)
            return await ElasticsearchFreshness(client, topics).now()

    # Positions are read by a search, and their index is refreshed each second.
    wait_for(lambda: anyio.run(read).access_log.lag == 7, "the lag is 7", 10)
    found = anyio.run(read)
    assert found.newest is not None
    assert found.access_log.lag == 7
    states = {each.flow: each for each in found.flows}
    for flow in FLOWS:
        lags = platform.partition_lags(
            flow, KafkaAdapter(Settings()), ElasticsearchAdapter(Settings())
        )
        if all(each.position is None for each in lags):
            continue  # nothing has been indexed
        partitions = states[flow.name].partitions
        assert partitions is not None
        assert [(each.number, each.lag) for each in partitions] == [
            (each.partition, each.lag) for each in lags
        ]


def test_the_latest_heartbeat_of_the_runs_of_a_flow_is_reported(quiet_stack: Stack) -> None:
    store, flow = ElasticsearchAdapter(Settings()), "shared_flow"
    publish(Event().value)
    run_indexer()
    for heartbeat_id, run in {flow: "all", f"{flow}:0-1": "first", f"{flow}:2-3": "second"}.items():
        heartbeat.send(store, heartbeat_id, run)
    store.refresh(heartbeat.INDEX)

    async def read() -> dict[str, str]:
        async with connection(quiet_stack.settings.elasticsearch_url, 60) as client:
            freshness = ElasticsearchFreshness(client, KafkaTopics("127.0.0.1:1"))
            _, heartbeats = await freshness._state()
            return {flow: each.run_id for flow, each in heartbeats.items()}

    assert anyio.run(read)[flow] == "second"
