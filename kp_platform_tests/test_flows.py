"""A flow's SQL, table file, mapping and event agree, field by field."""

import json
from typing import Any

import pytest
import sqlglot
from sqlglot import expressions

from kp_platform.flows import FLOWS, Flow
from kp_platform_tests.conftest import ROOT
from web_emitter.events import AccessEvent

FLOW_IDS = [flow.name for flow in FLOWS]
# What the pipeline adds to the columns of the SQL; `message` is for its eyes only.
ADDED = {"topic", "indexed_at", "enrichment"}


def sql(flow: Flow) -> expressions.Select:
    parsed = sqlglot.parse_one(flow.sql_path.read_text(), dialect="trino")
    assert isinstance(parsed, expressions.Select)
    return parsed


def mapping(flow: Flow) -> dict[str, Any]:
    template: dict[str, Any] = json.loads(flow.mapping_path.read_text())["template"]
    return template


def table_file(flow: Flow) -> dict[str, Any]:
    found: list[dict[str, Any]] = [
        table
        for path in (ROOT / "presto_etc" / "kafka").glob("*.json")
        if (table := json.loads(path.read_text()))["topicName"] == flow.topic
    ]
    assert len(found) == 1
    return found[0]


@pytest.mark.parametrize("flow", FLOWS, ids=FLOW_IDS)
def test_the_columns_of_the_sql_are_the_fields_of_the_mapping(flow: Flow) -> None:
    columns = set(sql(flow).named_selects) - {"message"}
    assert columns | ADDED == set(mapping(flow)["mappings"]["properties"])


@pytest.mark.parametrize("flow", FLOWS, ids=FLOW_IDS)
def test_the_table_file_declares_the_fields_of_the_event_as_varchar(flow: Flow) -> None:
    declared = table_file(flow)["message"]["fields"]
    assert tuple(field["name"] for field in declared) == flow.fields
    assert {field["type"] for field in declared} == {"VARCHAR"}
    assert [field["mapping"] for field in declared] == list(flow.fields)


@pytest.mark.parametrize("flow", FLOWS, ids=FLOW_IDS)
def test_the_sql_reads_the_flows_own_table(flow: Flow) -> None:
    described = table_file(flow)
    name = f"kafka_tests.{described['schemaName']}.{described['tableName']}"
    assert name in {table.sql() for table in sql(flow).find_all(expressions.Table)}


@pytest.mark.parametrize("flow", FLOWS, ids=FLOW_IDS)
def test_the_catalog_names_the_flows_table(flow: Flow) -> None:
    """Trino shows only tables that the catalog names, whatever table files there are."""
    catalog = (ROOT / "presto_etc" / "catalog" / "kafka_tests.properties").read_text()
    [names] = [line for line in catalog.splitlines() if line.startswith("kafka.table-names=")]
    described = table_file(flow)
    table = f"{described['schemaName']}.{described['tableName']}"
    assert table in names.removeprefix("kafka.table-names=").split(",")


@pytest.mark.parametrize("flow", FLOWS, ids=FLOW_IDS)
def test_the_mapping_is_strict_versioned_and_carries_the_alias(flow: Flow) -> None:
    template = mapping(flow)
    assert template["mappings"]["dynamic"] == "strict"
    assert template["mappings"]["_meta"]["version"] >= 1
    assert list(template["aliases"]) == [flow.index]


def test_the_emitters_event_has_exactly_the_fields_of_the_flow() -> None:
    [flow] = [each for each in FLOWS if each.name == "access_log"]
    body = json.loads(AccessEvent.of("/", name="presto").body())
    assert tuple(body) == flow.fields
    assert all(isinstance(value, str) for value in body.values())


def test_every_join_is_a_left_join() -> None:
    """An inner join would drop events without reference data, as the example does."""
    for flow in FLOWS:
        assert {join.side for join in sql(flow).find_all(expressions.Join)} <= {"LEFT"}


def test_a_flow_checks_its_id_field() -> None:
    with pytest.raises(ValueError, match="id_field 'id' is not in fields"):
        Flow(name="x", topic="x", index="x", description="x", fields=("a",), id_field="id")
