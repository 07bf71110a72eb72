"""Retention on the real servers: its report, and that it deletes nothing that is needed."""

import json

import dagster as dg
import pytest

from kp_platform.adapters.elasticsearch import ElasticsearchAdapter
from kp_platform.analytics.kpi import MAPPING as KPI_MAPPING
from kp_platform.definitions import build_definitions
from kp_platform.engine import index_registry
from kp_platform.flows.builtin import ACCESS_LOG
from kp_platform.settings import Settings
from kp_platform_tests.integration.events import (
    Event,
    documents,
    publish,
    run_indexer,
    search,
    unused_hours,
)
from kp_platform_tests.stack import Stack


def test_expired_events_stay_while_the_topic_has_their_messages(quiet_stack: Stack) -> None:
    run_indexer()
    [hour] = unused_hours(1)
    event = Event()
    publish(event.value, at=hour)
    run_indexer()
    variables = {
        "KP_LOG_RETENTION_DAYS": "1",
        "KP_DEAD_LETTER_RETENTION_DAYS": "1",
        "KP_KPI_RETENTION_DAYS": "1",
    }
    expiring = Stack(quiet_stack.settings, quiet_stack.variables | variables)
    for options in (("--dry-run",), ()):
        found = json.loads(expiring.kp("retention", *options, "--json").stdout)
        by_name = {each["what"]: each for each in found}
        reason = f"log.index-{hour:%Y.%m.%d}: analyze.action still holds messages of it"
        assert reason in by_name["log.index"]["kept"]
        assert f"log.index-{hour:%Y.%m.%d}" not in by_name["log.index"]["names"]
        assert {"kp.dead", "kp.gaps", "access.kpi", "runs of Dagster"} <= by_name.keys()
    printed = expiring.kp("retention", "--dry-run").stdout
    assert f"log.index-{hour:%Y.%m.%d}: analyze.action still holds messages of it" in printed
    assert len(documents(event.uuid)) == 1
    assert index_registry.missing(ElasticsearchAdapter(Settings()), ACCESS_LOG) == []


def test_the_job_deletes_expired_kpis_only(
    quiet_stack: Stack, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KP_KPI_RETENTION_DAYS", "30")
    store = ElasticsearchAdapter(Settings())
    store.ensure_index("access.kpi", KPI_MAPPING)
    client = store.client()
    hours = {"old": "2026-01-05T06:00:00.000Z", "young": "2099-01-01T00:00:00.000Z"}
    for name, hour in hours.items():
        client.index(
            index="access.kpi", id=name, document={"hour": hour, "scope": "all"}, refresh=True
        )
    job = build_definitions().resolve_job_def("retention")
    with dg.DagsterInstance.ephemeral() as instance:
        for dry_run, left in ((True, {"old", "young"}), (False, {"young"})):
            config = {"ops": {"delete_expired": {"config": {"dry_run": dry_run}}}}
            assert job.execute_in_process(instance=instance, run_config=config).success
            store.refresh("access.kpi")
            found = {each["hour"] for each in search("access.kpi", {"ids": {"values": [*hours]}})}
            assert found == {hours[name] for name in left}
    client.delete(index="access.kpi", id="young", refresh=True)
