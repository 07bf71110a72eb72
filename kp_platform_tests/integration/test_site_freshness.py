"""How fresh the logs are, on the page and as numbers."""

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
def test_lag_counts_what_the_topic_still_has(positions: dict[int, int], waiting: int) -> None:
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
    ("lag", "heartbeat_age", "said"),
    [
        (0, 2, "Data as of 4 s ago · no access waits · run 0b1c6b1e is at work"),
        (1, 2, "Data as of 4 s ago · 1 access waits · run 0b1c6b1e is at work"),
        (1_234, 180, "Data as of 4 s ago · 1,234 accesses wait · last run 0b1c6b1e 3 min ago"),
        (None, 2, "Data as of 4 s ago · Kafka does not answer · run 0b1c6b1e is at work"),
    ],
)
def test_the_page_says_how_fresh_it_is(
    client: TestClient,
    search: FakeLogs,
    freshness: FakeFreshness,
    lag: int | None,
    heartbeat_age: int,
    said: str,
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
    assert strip(client, freshness, answer) == said
    links = [link["href"] for link in Tags(client.get("/analysis").text).named("a")]
    assert f"http://127.0.0.1:18030/runs/{RUN}" in links


def test_without_it_the_logs_are_shown(
    client: TestClient, search: FakeLogs, freshness: FakeFreshness
) -> None:
    search.logs = (enriched_log(),)
    freshness.go_down()
    assert "The newest 1 of 1 logs" in client.get("/analysis").text


def test_it_is_asked_for_once_a_moment(client: TestClient, freshness: FakeFreshness) -> None:
    asked: list[None] = []
    freshness.ping = lambda: _noted(asked)  # type: ignore[method-assign]
    for _ in range(5):
        client.get("/analysis")
    assert len(asked) == 1


async def _noted(asked: list[None]) -> None:
    asked.append(None)


def test_it_is_what_kp_lag_says(quiet_stack: Stack) -> None:
    publish(Event().value)
    run_indexer()
    publish(*(Event().value for _ in range(7)))
    settings = quiet_stack.settings

    async def ask() -> Freshness:
        async with connection(settings.elasticsearch_url, 60) as client:
            topics = KafkaTopics(settings.kafka_bootstrap_servers)
            return await ElasticsearchFreshness(client, topics).now()

    # Positions are searched for, and the index is refreshed each second.
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
            continue  # nothing was read of it yet
        partitions = states[flow.name].partitions
        assert partitions is not None
        assert [(each.number, each.lag) for each in partitions] == [
            (each.partition, each.lag) for each in lags
        ]


def test_of_the_runs_that_share_a_flow_the_latest_beat_is_told(quiet_stack: Stack) -> None:
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


def test_a_kafka_that_is_not_there_costs_a_page_little() -> None:
    topics = KafkaTopics("127.0.0.1:1")
    assert topics.ends({ACCESS_LOG.topic}) is None
    began = datetime.now(UTC)
    assert topics.ends({ACCESS_LOG.topic}) is None
    assert datetime.now(UTC) - began < timedelta(milliseconds=100)
