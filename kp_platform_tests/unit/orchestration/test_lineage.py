"""The column lineage in Dagster is that of the SQL that runs."""

import dagster as dg
import pytest

from kp_platform.definitions import build_definitions
from kp_platform.flows.builtin import ACCESS_LOG, FLOWS, FULL_TEXT, REFERENCE_CHANGES
from kp_platform.flows.model import AnyFlow
from kp_platform.orchestration.asset_keys import REFERENCE_ROWS, REFERENCE_VALUES
from kp_platform.orchestration.lineage import ADDED, sources

TOPIC = dg.AssetKey(["kafka", "analyze.action"])


def schema(flow: AnyFlow) -> dict[str, tuple[str, str | None]]:
    """Name of each column to its type and description."""
    metadata = build_definitions().resolve_asset_graph().get(dg.AssetKey(flow.asset)).metadata
    found = metadata["dagster/column_schema"]
    return {column.name: (column.type, column.description) for column in found.columns}


@pytest.mark.parametrize(
    ("column", "type_", "description"),
    [
        ("@timestamp", "date", "from kafka_tests.analyze.action._timestamp"),  # an expression
        ("uuid", "keyword", "from kafka_tests.analyze.action.uuid"),
        ("test_id", "long", "from my_tests.testing.tests.test_id"),  # through a subquery
        ("redis_value", "keyword", "from red_tests.test.string.redis_value"),  # aggregated
        ("offset", "long", "from kafka_tests.analyze.action._partition_offset"),  # another name
        ("run_id", "keyword", "added: the Dagster run that indexed the event"),
    ],
)
def test_a_column_has_its_type_and_source(column: str, type_: str, description: str) -> None:
    assert schema(ACCESS_LOG)[column] == (type_, description)


def test_the_message_is_no_column_of_the_index() -> None:
    assert "message" in sources(ACCESS_LOG)
    assert "message" not in schema(ACCESS_LOG)


@pytest.mark.parametrize("flow", FLOWS, ids=lambda flow: flow.name)
def test_every_column_of_the_sql_has_a_source(flow: AnyFlow) -> None:
    assert [column for column, found in sources(flow).items() if not found] == []


def test_a_reference_refresh_writes_the_joined_columns_and_nothing_of_its_message() -> None:
    joined = {"redis_key", "redis_value", "test_id", "test_name", "created_at"}
    assert set(schema(REFERENCE_CHANGES)) == joined


def test_a_flow_without_references_has_no_enrichment() -> None:
    assert set(schema(FULL_TEXT)) == {*sources(FULL_TEXT), *ADDED} - {
        "message",
        "enrichment.state",
        "enrichment.missing",
    }


def test_the_lineage_of_columns_leads_to_the_assets() -> None:
    metadata = build_definitions().resolve_asset_graph().get(dg.AssetKey(ACCESS_LOG.asset)).metadata
    found = metadata["dagster/column_lineage"].deps_by_column
    assert found["uri"] == [dg.TableColumnDep(asset_key=TOPIC, column_name="uri")]
    assert found["test_id"] == [dg.TableColumnDep(asset_key=REFERENCE_ROWS, column_name="test_id")]
    assert [dep.asset_key for dep in found["redis_key"]] == [REFERENCE_VALUES]
