"""Dead letters in Dagster: changed numbers only, nothing of a message, and a retry as a job."""

import json
from collections import Counter
from collections.abc import Iterator
from typing import Any

import dagster as dg
import pytest

from kp_platform.engine.dead_letters import DEAD_INDEX, DeadLetter, Tally
from kp_platform.engine.ports import Version
from kp_platform.flows.builtin import ACCESS_LOG
from kp_platform.orchestration.dead_letters import (
    CHECK,
    KEY,
    RetryConfig,
    check,
    dead_letters_sensor,
    numbers,
    tally_metadata,
)
from kp_platform_tests.unit.engine.harness import Harness

SOME = Tally(
    Counter(
        {("access_log", "not_json"): 2, ("full_text", "not_json"): 1, ("full_text", "empty"): 4}
    ),
    discarded=5,
)


@pytest.fixture
def harness() -> Harness:
    return Harness()


@pytest.fixture
def instance() -> Iterator[dg.DagsterInstance]:
    with dg.DagsterInstance.ephemeral() as instance:
        yield instance


def tick(instance: dg.DagsterInstance, harness: Harness) -> list[Any]:
    """The events of one tick, reported like the daemon does."""
    resources = {"elasticsearch": harness.store}
    with dg.build_sensor_context(instance=instance, resources=resources) as context:
        answer = dead_letters_sensor().evaluate_tick(context)
    assert not answer.run_requests
    for event in answer.asset_events:
        instance.report_runless_asset_event(event)
    return list(answer.asset_events)


def dead_letter() -> DeadLetter:
    source = {
        "@timestamp": "2026-03-01T00:00:00.000Z",
        "flow": "access_log",
        "topic": ACCESS_LOG.topic,
        "topic_id": "id-1",
        "partition": 1,
        "offset": 7,
        "reason": "not_json",
        "detail": "a-secret-that-a-server-quotes",
        "value": "YS1zZWNyZXQ=",
    }
    return DeadLetter("access_log:id-1:1:7", source, Version(1, 1))


def test_numbers_are_by_flow_and_by_reason_and_fall_to_zero() -> None:
    now = numbers(SOME, {})
    assert now == {
        "open": 7,
        "discarded": 5,
        "flow access_log": 2,
        "flow full_text": 5,
        "reason not_json": 3,
        "reason empty": 4,
    }
    assert numbers(Tally(Counter(), 5), now) == dict.fromkeys(now, 0) | {"discarded": 5}


def test_the_numbers_are_plotted_and_nothing_of_a_message_is_reported() -> None:
    metadata = tally_metadata(numbers(SOME, {}), [dead_letter()])
    plotted = {name: each.value for name, each in metadata.items() if isinstance(each.value, int)}
    assert plotted == {"dagster/row_count": 12, **numbers(SOME, {})}
    latest = metadata["latest"]
    assert isinstance(latest, dg.TableMetadataValue)
    [row] = latest.records
    assert row.data == {
        "id": "access_log:id-1:1:7",
        "flow": "access_log",
        "offset": "analyze.action 1:7",
        "reason": "not_json",
        "since": "2026-03-01T00:00:00.000Z",
    }


def test_only_open_dead_letters_are_a_warning() -> None:
    assert (check(SOME)["passed"], check(Tally(Counter(), 5))["passed"]) == (False, True)
    assert check(SOME)["severity"] == dg.AssetCheckSeverity.WARN
    assert check(SOME)["description"] == "7 open dead letters (4 empty, 3 not_json), 5 discarded"


def test_the_sensor_reports_the_numbers_only_when_they_have_changed(
    harness: Harness, instance: dg.DagsterInstance
) -> None:
    [first, check_of_first] = tick(instance, harness)
    assert first.metadata["open"].value == 0
    assert check_of_first.passed
    assert tick(instance, harness) == []
    harness.kafka.produce(ACCESS_LOG.topic, b"a-secret", 0)
    harness.run()
    harness.store.refresh(DEAD_INDEX)
    [second, check_of_second] = tick(instance, harness)
    assert (second.asset_key, second.metadata["reason not_json"].value) == (KEY, 1)
    assert (check_of_second.check_name, check_of_second.passed) == (CHECK, False)
    assert "a-secret" not in repr(second.metadata)
    assert tick(instance, harness) == []
    reported = instance.get_latest_materialization_event(KEY)
    assert reported is not None
    assert reported.asset_materialization is not None
    assert reported.asset_materialization.metadata["numbers"].value == {
        "open": 1,
        "discarded": 0,
        "flow access_log": 1,
        "reason not_json": 1,
    }


def test_a_retry_must_select_dead_letters() -> None:
    with pytest.raises(dg.Failure, match="select dead letters: ids, a flow or a reason"):
        RetryConfig().selection()
    assert RetryConfig(ids=["a"]).selection().ids == ("a",)
    assert RetryConfig(flow="access_log", reason="conflict").selection().where.equal == (
        ("flow", "access_log"),
        ("reason", "conflict"),
    )


def test_every_field_of_the_retry_config_is_described() -> None:
    schema = json.loads(json.dumps(RetryConfig.model_json_schema()))
    assert all(each["description"] for each in schema["properties"].values())
