"""Indexing by Dagster: sensors start runs, and a request becomes an enriched document."""

import contextlib
import uuid
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import dagster as dg
import httpx
import pytest

from kp_platform.adapters.elasticsearch import ElasticsearchAdapter
from kp_platform.adapters.kafka import KafkaAdapter
from kp_platform.adapters.trino import TrinoAdapter, TrinoAnswer
from kp_platform.definitions import build_definitions
from kp_platform.engine.lag import partition_lags
from kp_platform.flows.builtin import ACCESS_LOG
from kp_platform.operations.reference_data import REFERENCE_VALUES
from kp_platform.orchestration.flow_assets import FLOW_TAG
from kp_platform.settings import Settings
from kp_platform_tests.conftest import wait_for
from kp_platform_tests.integration.events import Event, documents, publish, search
from kp_platform_tests.stack import Stack

KEY = dg.AssetKey("enriched_access_log")


class ShortTrino(TrinoAdapter):
    """The real Trino, dropping every row of an answer, as if retention had deleted them."""

    @contextlib.contextmanager
    def query(self, sql: str, parameters: Sequence[object]) -> Iterator[TrinoAnswer]:
        with super().query(sql, parameters) as answer:
            list(answer.batches(1_000))
            yield answer


@pytest.fixture
def instance() -> Iterator[dg.DagsterInstance]:
    with dg.DagsterInstance.ephemeral() as instance:
        yield instance


def tick(instance: dg.DagsterInstance) -> list[dg.RunRequest] | dg.SkipReason:
    """The result of a tick of the access log's sensor."""
    sensor = build_definitions().resolve_sensor_def("access_log_offsets")
    resources = {
        "settings": Settings(),
        "kafka": KafkaAdapter(Settings()),
        "elasticsearch": ElasticsearchAdapter(Settings()),
    }
    with dg.build_sensor_context(instance=instance, resources=resources) as context:
        answer: Any = sensor(context)
    assert isinstance(answer, list | dg.SkipReason)
    return answer


def started(instance: dg.DagsterInstance) -> list[dg.RunRequest]:
    answer = tick(instance)
    assert isinstance(answer, list)
    return answer


def run(
    instance: dg.DagsterInstance, tags: Mapping[str, str] | None = None, **config: object
) -> dg.ExecuteInProcessResult:
    job = build_definitions().resolve_job_def("index_access_log")
    taken = {"follow_idle_seconds": 0, **config}
    return job.execute_in_process(
        instance=instance,
        tags=tags,
        run_config={"ops": {"enriched_access_log": {"config": taken}}},
    )


def test_a_request_becomes_an_enriched_document_automatically(whole_stack: Stack) -> None:
    """HTTP request -> topic -> sensor tick of the daemon -> run -> document."""
    marker = uuid.uuid4().hex[:8]
    uris = [
        f"/analysis?page={marker}-{number}" for number in range(20)
    ]  # a query parameter that is kept
    with httpx.Client(base_url=whole_stack.settings.emitter_url, trust_env=False) as visitor:
        for uri in uris:
            assert visitor.get(uri).status_code == 200
    query = {"prefix": {"uri": f"/analysis?page={marker}"}}
    wait_for(lambda: len(search("log.index", query)) >= 20, "20 documents")
    assert sorted(each["uri"] for each in search("log.index", query)) == sorted(uris)
    for document in search("log.index", query):
        assert document["redis_value"] == REFERENCE_VALUES[str(document["name"])]
        assert document["test_name"] == document["name"]
    page = httpx.get(f"{whole_stack.settings.emitter_url}/analysis", trust_env=False).text
    assert marker in page


def test_the_sensor_requests_a_run_only_when_there_is_lag(
    quiet_stack: Stack, instance: dg.DagsterInstance
) -> None:
    run(instance)
    caught_up = tick(instance)
    assert isinstance(caught_up, dg.SkipReason)
    assert caught_up.skip_message == "analyze.action: caught up, lag 0"
    publish(Event().value)
    [requested] = started(instance)
    assert "lag 1" in requested.tags["kp/reason"]
    assert not requested.run_config
    run(instance)


def test_runs_of_different_partitions_are_started_independently(
    quiet_stack: Stack, instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(instance)
    monkeypatch.setenv("KP_PARTITIONS_PER_RUN", "2")
    events = [Event() for _ in range(8)]
    for number, event in enumerate(events):
        publish(event.value, partition=number % 4)
    requests = started(instance)
    parts = [dict(each.run_config["ops"]["enriched_access_log"]["config"]) for each in requests]
    assert parts == [{"partitions": "0-1"}, {"partitions": "2-3"}]
    assert [each.tags["kp/assignment"] for each in requests] == ["0-1", "2-3"]
    assert [each.tags["kp/partitions"] for each in requests] == ["0,1", "2,3"]
    first, second = requests
    instance.create_run_for_job(
        build_definitions().resolve_job_def("index_access_log"),
        tags={FLOW_TAG: ACCESS_LOG.name, **first.tags},
        status=dg.DagsterRunStatus.STARTED,
    )
    assert [each.tags["kp/assignment"] for each in started(instance)] == ["2-3"]
    for request, each in zip(requests, parts, strict=True):
        [done] = run(instance, request.tags, **each).asset_materializations_for_node(
            "enriched_access_log"
        )
        assert done.metadata["rows"].value == 4
    assert all(len(documents(event.uuid)) == 1 for event in events)
    lags = partition_lags(ACCESS_LOG, KafkaAdapter(Settings()), ElasticsearchAdapter(Settings()))
    assert sum(each.lag for each in lags) == 0


def test_a_run_indexes_reports_and_checks(quiet_stack: Stack, instance: dg.DagsterInstance) -> None:
    run(instance)
    valid, offsets = Event(), []
    offsets += publish(valid.value, b"not json", partition=0)
    result = run(instance)
    assert result.success
    [materialization] = result.asset_materializations_for_node("enriched_access_log")
    metadata = {key: value.value for key, value in materialization.metadata.items()}
    assert metadata["offsets"] == f"0:[{offsets[0][1]},{offsets[1][1] + 1})"
    assert (metadata["rows"], metadata["indexed"], metadata["dead letters"]) == (2, 1, 1)
    assert metadata["lag after"] == 0
    assert str(metadata["query id"]) in str(metadata["query"])
    checks = {each.check_name: each for each in result.get_asset_check_evaluations()}
    assert checks["slice_complete"].passed
    assert not checks["no_dead_letters"].passed
    assert checks["no_dead_letters"].severity == dg.AssetCheckSeverity.WARN
    assert len(documents(valid.uuid)) == 1


def test_a_run_without_lag_succeeds_and_reports_nothing(
    quiet_stack: Stack, instance: dg.DagsterInstance
) -> None:
    run(instance)
    result = run(instance)
    assert result.success
    assert result.asset_materializations_for_node("enriched_access_log") == []
    assert all(each.passed for each in result.get_asset_check_evaluations())


def test_an_incomplete_answer_fails_the_run_and_its_check(
    quiet_stack: Stack, instance: dg.DagsterInstance
) -> None:
    run(instance)
    publish(Event().value)
    short = ShortTrino(Settings())
    job = build_definitions(resources={"trino": short}).resolve_job_def("index_access_log")
    result = job.execute_in_process(instance=instance, raise_on_error=False)
    assert not result.success
    check = result.get_asset_check_evaluations()[0]
    assert (check.check_name, check.passed) == ("slice_complete", False)
    assert "1 of 1 offsets of partition" in str(check.description)
    run(instance)


def test_positions_and_not_dagsters_history_determine_what_is_indexed(quiet_stack: Stack) -> None:
    """A new Dagster home continues at the positions."""
    with dg.DagsterInstance.ephemeral() as first:
        publish(Event().value)
        run(first)
    with dg.DagsterInstance.ephemeral() as second:
        result = run(second)
    assert result.asset_materializations_for_node("enriched_access_log") == []
    lags = partition_lags(ACCESS_LOG, KafkaAdapter(Settings()), ElasticsearchAdapter(Settings()))
    assert sum(each.lag for each in lags) == 0


def test_the_reference_data_can_be_materialized(
    quiet_stack: Stack, instance: dg.DagsterInstance
) -> None:
    job = build_definitions().resolve_job_def("seed_reference_data")
    result = job.execute_in_process(instance=instance)
    counts = [
        event.materialization.metadata["dagster/row_count"].value
        for event in result.get_asset_materialization_events()
    ]
    assert counts == [4, 4]
