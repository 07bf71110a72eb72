"""The freshness of the logs, on the page and as numbers."""

from datetime import UTC, datetime, timedelta

import anyio
import pytest
from starlette.testclient import TestClient

from kp_platform.adapters.elasticsearch import ElasticsearchAdapter
from kp_platform.adapters.kafka import KafkaAdapter
from kp_platform.engine import heartbeat
from kp_platform.engine import lag as platform
from kp_platform.flows.builtin import ACCESS_LOG, FLOWS
from kp_platform.settings import Settings
from kp_platform_tests.conftest import wait_for
from kp_platform_tests.integration.events import Event, publish, run_indexer
from kp_platform_tests.stack import Stack
from kp_platform_tests.unit.web_emitter.fakes import FakeFreshness, FakeLogs, enriched_log
from kp_platform_tests.unit.web_emitter.html import Tags
from web_emitter.site.freshness import (
    ElasticsearchFreshness,
    FlowState,
    Freshness,
    KafkaTopics,
    Partition,
)
from web_emitter.site.search import connection

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
RUN = "0b1c6b1e-6f0f-4d3b-9a57-0d6f4d1f2a01"


@pytest.mark.parametrize(
    ("positions", "waiting"),
    [({}, 12), ({0: 10}, 7), ({0: 10, 1: 12}, 5), ({0: 10, 1: 17}, 0), ({0: 2, 1: 99}, 12)],
)
def test_lag_counts_messages_that_the_topic_still_has(
    positions: dict[int, int], waiting: int
) -> None:
    partitions = tuple(
        Partition(number=part, low=low, high=high, position=positions.get(part, low))
        for part, (low, high) in {0: (5, 10), 1: (10, 17)}.items()
    )
    assert FlowState(flow="f", topic="t", partitions=partitions).lag == waiting


def waiting(lag: int) -> tuple[Partition, ...]:
    return (Partition(number=0, low=0, high=lag, position=0),)


def strip(client: TestClient, freshness: FakeFreshness, answer: Freshness) -> str:
    freshness.answer = answer
    text = Tags(client.get("/analysis").text).text
    return " ".join(text[text.index("Data as of") : text.index("Words in")].split())


@pytest.mark.parametrize(
    ("lag", "heartbeat_age", "expected"),
    [
        (0, 2, "Data as of 4 s ago · no access waits · run 0b1c6b1e is at work"),
        (1, 2, "Data as of 4 s ago · 1 access waits · run 0b1c6b1e is at work"),
        (1_234, 180, "Data as of 4 s ago · 1,234 accesses wait · last run 0b1c6b1e 3 min ago"),
        (None, 2, "Data as of 4 s ago · Kafka does not answer · run 0b1c6b1e is at work"),
    ],
)
def test_the_page_shows_its_freshness(
    client: TestClient,
    search: FakeLogs,
    freshness: FakeFreshness,
    lag: int | None,
    heartbeat_age: int,
    expected: str,
) -> None:
    search.logs = (enriched_log(),)
    answer = Freshness(
        now=NOW,
        newest=NOW - timedelta(seconds=4),
        flows=(
            FlowState(
                flow="access_log",
                topic="analyze.action",
                partitions=None if lag is None else waiting(lag),
                run_id=RUN,
                beat_at=NOW - timedelta(seconds=heartbeat_age),
            ),
        ),
    )
    assert strip(client, freshness, answer) == expected
    links = [link["href"] for link in Tags(client.get("/analysis").text).named("a")]
    assert f"http://127.0.0.1:18030/runs/{RUN}" in links


def test_logs_are_shown_without_freshness(
    client: TestClient, search: FakeLogs, freshness: FakeFreshness
) -> None:
    search.logs = (enriched_log(),)
    freshness.go_down()
    assert "The newest 1 of 1 logs" in client.get("/analysis").text


def test_freshness_is_queried_once_for_several_requests(
    client: TestClient, freshness: FakeFreshness
) -> None:
    queries: list[None] = []
    freshness.ping = lambda: _recorded(queries)  # type: ignore[method-assign]
    for _ in range(5):
        client.get("/analysis")
    assert len(queries) == 1


async def _recorded(queries: list[None]) -> None:
    queries.append(None)


def test_freshness_reports_the_lag_of_kp_lag(quiet_stack: Stack) -> None:
    publish(Event().value)
    run_indexer()
    publish(*(Event().value for _ in range(7)))
    settings = quiet_stack.settings

    async def ask() -> Freshness:
        async with connection(settings.elasticsearch_url, 60) as client:
            topics = KafkaTopics(settings.kafka_bootstrap_servers)
            return await ElasticsearchFreshness(client, topics).now()

    # A search finds positions once their index is refreshed, each second.
    wait_for(lambda: anyio.run(ask).access_log.lag == 7, "the lag is 7", 10)
    found = anyio.run(ask)
    assert found.newest is not None
    assert found.access_log.lag == 7
    states = {each.flow: each for each in found.flows}
    for flow in FLOWS:
        lags = platform.partition_lags(
            flow, KafkaAdapter(Settings()), ElasticsearchAdapter(Settings())
        )
        if all(each.position is None for each in lags):
            continue  # no message was indexed yet
        partitions = states[flow.name].partitions
        assert partitions is not None
        assert [(each.number, each.lag) for each in partitions] == [
            (each.partition, each.lag) for each in lags
        ]


def test_the_latest_heartbeat_of_the_runs_of_a_flow_is_reported(quiet_stack: Stack) -> None:
    store, flow = ElasticsearchAdapter(Settings()), "shared_flow"
    publish(Event().value)
    run_indexer()
    for work, run in {flow: "all", f"{flow}:0-1": "first", f"{flow}:2-3": "second"}.items():
        heartbeat.send(store, work, run)
    store.refresh(heartbeat.INDEX)

    async def ask() -> dict[str, str]:
        async with connection(quiet_stack.settings.elasticsearch_url, 60) as client:
            freshness = ElasticsearchFreshness(client, KafkaTopics("127.0.0.1:1"))
            _, leases = await freshness._state()
            return {each: str(leases[each]["run_id"]) for each in leases}

    assert anyio.run(ask)[flow] == "second"


def test_an_unreachable_kafka_delays_a_page_by_at_most_a_tenth_of_a_second() -> None:
    topics = KafkaTopics("127.0.0.1:1")
    assert topics.ends({ACCESS_LOG.topic}) is None
    began = datetime.now(UTC)
    assert topics.ends({ACCESS_LOG.topic}) is None
    assert datetime.now(UTC) - began < timedelta(milliseconds=100)
