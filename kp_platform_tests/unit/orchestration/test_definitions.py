"""The definitions load without servers and show lineage, descriptions and code."""

import os
import subprocess
import sys
from pathlib import Path

import dagster as dg

from kp_platform.definitions import build_definitions
from kp_platform.flows.builtin import FLOWS
from kp_platform_tests.stack import ROOT

SENSORS = (
    "access_log_offsets",
    "access_ranking_refresh",
    "access_kpi_hours",
    "dead_letters_counts",
    "failed_runs",
)
JOBS = (
    "index_access_log",
    "seed_reference_data",
    "rank_accesses",
    "compute_access_kpi",
    "retry_dead_letters",
    "replay_access_log",
    "replay_full_text",
    "retention",
)
ENRICHED = dg.AssetKey("enriched_access_log")
# A run imports the definitions before it works. They must not import what only the command line or
# a test needs, nor the Elasticsearch client, which takes a quarter of the CPU and is needed later.
UNUSED = {"elasticsearch", "httpx", "rich", "typer", "supervisor", "web_emitter.emitter"}


def test_they_load_in_a_fresh_interpreter_with_an_empty_environment() -> None:
    code = (
        "import sys; from kp_platform.definitions import defs; "
        f"assert sys.modules.keys().isdisjoint({UNUSED}); "
        "print(len(list(defs.resolve_all_asset_specs())))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], env={}, cwd="/", capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout.strip()) == (0, "15"), done.stderr


def test_the_lineage_leads_from_topic_table_and_keys_to_the_enriched_log() -> None:
    graph = build_definitions().resolve_asset_graph()
    assert graph.get(ENRICHED).parent_keys == {
        dg.AssetKey(["kafka", "analyze.action"]),
        dg.AssetKey(["mysql", "testing.tests"]),
        dg.AssetKey(["redis", "test.string"]),
    }
    assert not graph.get(dg.AssetKey(["kafka", "analyze.action"])).is_executable
    assert graph.get(dg.AssetKey(["mysql", "testing.tests"])).is_executable


def test_each_job_runs_in_one_process() -> None:
    executors = {job.executor_def.name for job in build_definitions().resolve_all_job_defs()}
    assert executors == {"in_process"}


def test_ranking_and_kpis_depend_on_the_enriched_log() -> None:
    graph = build_definitions().resolve_asset_graph()
    assert graph.get(dg.AssetKey("access_ranking")).parent_keys == {
        ENRICHED,
        dg.AssetKey(["mysql", "testing.tests"]),
        dg.AssetKey(["redis", "test.string"]),
    }
    assert graph.get(dg.AssetKey("access_kpi")).parent_keys == {ENRICHED}


def test_the_lineage_ends_at_the_pages() -> None:
    graph = build_definitions().resolve_asset_graph()
    analysis = graph.get(dg.AssetKey(["web", "analysis"]))
    assert analysis.parent_keys == {
        ENRICHED,
        dg.AssetKey("access_ranking"),
        dg.AssetKey("access_kpi"),
    }
    notes = graph.get(dg.AssetKey(["web", "fulltext"]))
    assert notes.parent_keys == {dg.AssetKey("full_text_notes")}


def test_every_asset_that_runs_shows_its_code() -> None:
    for asset in build_definitions().resolve_asset_graph().asset_nodes:
        if asset.is_executable:
            [code] = asset.metadata["dagster/code_references"].value.code_references
            line = Path(code.file_path).read_text().splitlines()[code.line_number - 1]
            assert line.strip() in ("@dg.asset(", "@partitioned_asset(")


def test_dead_letters_depend_on_every_flow() -> None:
    graph = build_definitions().resolve_asset_graph()
    keys = {dg.AssetKey(flow.asset) for flow in FLOWS}
    assert graph.get(dg.AssetKey("dead_letters")).parent_keys == keys


def test_every_asset_job_sensor_and_resource_field_has_a_description() -> None:
    definitions = build_definitions()
    assert all(spec.description for spec in definitions.resolve_all_asset_specs())
    assert all(definitions.resolve_job_def(name).description for name in JOBS)
    assert all(definitions.resolve_sensor_def(name).description for name in SENSORS)
    resources = dict(definitions.resources or {})
    assert resources.pop("settings").description
    for resource in resources.values():
        assert isinstance(resource, dg.ConfigurableResource)
        assert all(field.description for field in type(resource).model_fields.values())


def test_the_sensors_are_on_by_default() -> None:
    for name in SENSORS:
        sensor = build_definitions().resolve_sensor_def(name)
        assert sensor.default_status == dg.DefaultSensorStatus.RUNNING


def test_the_root_of_the_repository_is_a_workspace_for_dagster_dev() -> None:
    """A [tool.dagster] or [tool.dg] table would make `dagster dev` ignore workspace.yaml."""
    assert (ROOT / "workspace.yaml").exists()
    text = (ROOT / "pyproject.toml").read_text()
    assert "[tool.dg" not in text
    assert "[tool.dagster" not in text


def test_no_secret_is_a_field_of_a_resource_or_of_a_run() -> None:
    """The Dagster UI shows the fields of both."""
    environment = {**os.environ, "KP_MYSQL_PASSWORD": "a-secret-of-this-test"}
    code = (
        "from dagster import DagsterInstance\n"
        "from kp_platform.definitions import defs\n"
        "print(defs.resolve_job_def('index_access_log').resource_defs, defs.resources)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
    )
    assert "a-secret-of-this-test" not in done.stdout
