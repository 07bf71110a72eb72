"""The freshness of the logs on the page, and the lag of a flow."""

from datetime import UTC, datetime, timedelta

import pytest
from starlette.testclient import TestClient

from kp_platform.flows.builtin import ACCESS_LOG
from kp_platform_tests.unit.web_emitter.fakes import FakeFreshness, FakeLogs, enriched_log
from kp_platform_tests.unit.web_emitter.html import Tags
from web_emitter.site.status.freshness import (
    FlowState,
    Freshness,
    KafkaTopics,
    Partition,
)

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
RUN = "0b1c6b1e-6f0f-4d3b-9a57-0d6f4d1f2a01"


@pytest.mark.parametrize(
    ("positions", "lag"),
    [({}, 12), ({0: 10}, 7), ({0: 10, 1: 12}, 5), ({0: 10, 1: 17}, 0), ({0: 2, 1: 99}, 12)],
)
def test_lag_counts_the_retained_offsets_that_are_not_indexed(
    positions: dict[int, int], lag: int
) -> None:
    partitions = tuple(
        Partition(number=number, low=low, high=high, position=positions.get(number, low))
        for number, (low, high) in {0: (5, 10), 1: (10, 17)}.items()
    )
    assert FlowState(flow="f", topic="t", partitions=partitions).lag == lag


def partitions_with(lag: int) -> tuple[Partition, ...]:
    return (Partition(number=0, low=0, high=lag, position=0),)


def strip(client: TestClient, freshness: FakeFreshness, answer: Freshness) -> str:
    freshness.answer = answer
    text = Tags(client.get("/analysis").text).text
    return " ".join(text[text.index("Data as of") : text.index("Words in")].split())


@pytest.mark.parametrize(
    ("lag", "heartbeat_age", "text"),
    [
        (0, 2, "Data as of 4 s ago · all accesses indexed · run 0b1c6b1e is running"),
        (1, 2, "Data as of 4 s ago · 1 access not indexed yet · run 0b1c6b1e is running"),
        (
            1_234,
            180,
            "Data as of 4 s ago · 1,234 accesses not indexed yet · last run 0b1c6b1e 3 min ago",
        ),
        (None, 2, "Data as of 4 s ago · Kafka is unavailable · run 0b1c6b1e is running"),
    ],
)
def test_the_page_shows_how_fresh_its_data_is(
    client: TestClient,
    search: FakeLogs,
    freshness: FakeFreshness,
    lag: int | None,
    heartbeat_age: int,
    text: str,
) -> None:
    search.logs = (enriched_log(),)
    answer = Freshness(
        now=NOW,
        newest=NOW - timedelta(seconds=4),
        flows=(
            FlowState(
                flow="access_log",
                topic="analyze.action",
                partitions=None if lag is None else partitions_with(lag),
                run_id=RUN,
                heartbeat_at=NOW - timedelta(seconds=heartbeat_age),
            ),
        ),
    )
    assert strip(client, freshness, answer) == text
    links = [link["href"] for link in Tags(client.get("/analysis").text).named("a")]
    assert f"http://127.0.0.1:18030/runs/{RUN}" in links


def test_without_freshness_the_logs_are_shown(
    client: TestClient, search: FakeLogs, freshness: FakeFreshness
) -> None:
    search.logs = (enriched_log(),)
    freshness.go_down()
    assert "The newest 1 of 1 logs" in client.get("/analysis").text


def test_freshness_is_cached(client: TestClient, freshness: FakeFreshness) -> None:
    loads: list[None] = []
    freshness.ping = lambda: _record(loads)  # type: ignore[method-assign]
    for _ in range(5):
        client.get("/analysis")
    assert len(loads) == 1


async def _record(loads: list[None]) -> None:
    loads.append(None)


def test_an_unavailable_kafka_delays_only_one_page() -> None:
    topics = KafkaTopics("127.0.0.1:1")
    assert topics.watermarks({ACCESS_LOG.topic}) is None
    began = datetime.now(UTC)
    assert topics.watermarks({ACCESS_LOG.topic}) is None
    assert datetime.now(UTC) - began < timedelta(milliseconds=100)
