"""The KPIs in Dagster: partitions, the runs that the sensor requests, and servers that are down."""

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta

import dagster as dg
import pytest

from kp_platform.adapters.elasticsearch import ElasticsearchAdapter
from kp_platform.adapters.kafka import KafkaAdapter
from kp_platform.adapters.redis import RedisAdapter
from kp_platform.adapters.trino import TrinoAdapter
from kp_platform.analytics.kpi import Numbers, StaleHour
from kp_platform.definitions import build_definitions
from kp_platform.orchestration.kpi import (
    HOURS,
    MAX_RUNS,
    hour_of,
    is_computed,
    key_of,
    reason,
    run_requests,
)
from kp_platform.orchestration.periodic import REPEATS_TAG
from kp_platform.orchestration.run_state import JobRun
from kp_platform.settings import Settings

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)
HOUR = timedelta(hours=1)
LATER = NOON + timedelta(days=1)
STARTED = dg.DagsterRunStatus.STARTED
RANGE = ("dagster/asset_partition_range_start", "dagster/asset_partition_range_end")


def stale(*hours: int) -> list[StaleHour]:
    return [StaleHour(NOON + number * HOUR, Numbers(5, 3, 1), None) for number in hours]


def live(tags: Mapping[str, str]) -> JobRun:
    return JobRun("0123456789", STARTED, 1.0, tags)


def requested(requests: list[dg.RunRequest]) -> list[tuple[str, str]]:
    """The hours of day that each run computes, first and last."""
    return [(each.tags[RANGE[0]][11:], each.tags[RANGE[1]][11:]) for each in requests]


def test_a_partition_is_an_hour_and_includes_the_current_one() -> None:
    now = datetime(2026, 3, 1, 12, 34, tzinfo=UTC)
    keys = HOURS.get_partition_keys(current_time=now)
    assert (keys[0], keys[-1]) == ("2026-01-01-00:00", "2026-03-01-12:00")
    assert hour_of(keys[-1]) == NOON
    assert key_of(NOON) == keys[-1]


def test_consecutive_hours_are_computed_by_one_run() -> None:
    assert requested(run_requests(stale(0, 1, 2, 5), [], LATER, 600)) == [
        ("12:00", "14:00"),
        ("17:00", "17:00"),
    ]


def test_a_tick_requests_a_few_runs_of_the_oldest_hours() -> None:
    requests = run_requests(stale(0, 2, 4, 6, 8), [], LATER, 600)
    assert requested(requests) == [("12:00", "12:00"), ("14:00", "14:00"), ("16:00", "16:00")]
    assert len(requests) == MAX_RUNS


@pytest.mark.parametrize(
    ("tags", "computed"),
    [
        ({"dagster/partition": "2026-03-01-12:00"}, True),  # a user started this hour
        ({"dagster/partition": "2026-03-01-13:00"}, False),
        (dict(zip(RANGE, ("2026-03-01-10:00", "2026-03-01-12:00"), strict=True)), True),
        (dict(zip(RANGE, ("2026-03-01-13:00", "2026-03-01-14:00"), strict=True)), False),
        ({}, True),  # unknown hours block every hour
    ],
)
def test_an_hour_that_a_live_run_computes_is_not_requested(
    tags: dict[str, str], computed: bool
) -> None:
    assert is_computed(NOON, [live(tags)]) is computed
    assert requested(run_requests(stale(0), [live(tags)], LATER, 600)) == (
        [] if computed else [("12:00", "12:00")]
    )


def test_only_the_run_of_the_current_hour_repeats() -> None:
    past, current = run_requests(stale(0, 5), [], NOON + 5.5 * HOUR, 600)
    assert (REPEATS_TAG in past.tags, past.run_config) == (False, {})
    assert REPEATS_TAG in current.tags
    [config] = current.run_config["ops"].values()
    assert config == {"config": {"repeat_seconds": 600.0}}


def test_the_reason_contains_the_numbers() -> None:
    assert reason(StaleHour(NOON, Numbers(5, 3, 1), None)) == (
        "5 accesses, 3 complete, 1 dead letters, not computed yet"
    )
    assert reason(StaleHour(NOON, Numbers(5, 3, 1), Numbers(4, 3, 1))) == (
        "5 accesses, 3 complete, 1 dead letters; computed 4, 3, 1"
    )


@pytest.mark.parametrize(
    "name", ["access_kpi_hours", "access_ranking_refresh", "dead_letters_counts"]
)
def test_a_server_that_is_down_is_a_skip_that_names_it(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KP_REDIS_URL", "redis://127.0.0.1:1/10")
    sensor = build_definitions().resolve_sensor_def(name)
    resources = {
        "settings": Settings(),
        "kafka": KafkaAdapter(Settings()),
        "trino": TrinoAdapter(Settings()),
        "elasticsearch": ElasticsearchAdapter(Settings(elasticsearch_url="http://127.0.0.1:1")),
        "redis": RedisAdapter(Settings()),
    }
    with (
        dg.DagsterInstance.ephemeral() as instance,
        dg.build_sensor_context(instance=instance, resources=resources) as context,
    ):
        answer = sensor.evaluate_tick(context)
    assert not answer.run_requests
    assert "does not answer at" in str(answer.skip_message)
    assert "127.0.0.1:1" in str(answer.skip_message)
