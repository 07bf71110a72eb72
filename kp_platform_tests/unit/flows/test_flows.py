"""A flow's SQL, table file, mapping and event agree, field by field."""

import json
from typing import Any

import pytest
import sqlglot
from sqlglot import expressions

from kp_platform.flows.builtin import ACCESS_LOG, FLOWS
from kp_platform.flows.model import AnyFlow, Flow, ReferenceRefresh, document_flows
from kp_platform_tests.stack import ROOT
from web_emitter.emitter.events import AccessEvent

FLOW_IDS = [flow.name for flow in FLOWS]
# What the loader adds to the columns of the SQL; `message` is only checked.
ADDED = {"topic", "indexed_at", "run_id", "delay_ms"}


def sql(flow: AnyFlow) -> expressions.Select:
    parsed = sqlglot.parse_one(flow.sql, dialect="trino")
    assert isinstance(parsed, expressions.Select)
    return parsed


def mapping(flow: AnyFlow) -> dict[str, Any]:
    text = flow.mapping.read_text()
    template: dict[str, Any] = json.loads(text)["template"]
    return template


def table_file(flow: AnyFlow) -> dict[str, Any]:
    found: list[dict[str, Any]] = [
        table
        for path in (ROOT / "presto_etc" / "kafka").glob("*.json")
        if (table := json.loads(path.read_text()))["topicName"] == flow.topic
    ]
    assert len(found) == 1
    return found[0]


REFRESHES = [flow for flow in FLOWS if isinstance(flow, ReferenceRefresh)]


@pytest.mark.parametrize("flow", document_flows(FLOWS), ids=lambda flow: flow.name)
def test_the_columns_of_the_sql_are_the_fields_of_the_mapping(flow: Flow) -> None:
    columns = set(sql(flow).named_selects) - {"message"}
    added = ADDED | ({"enrichment"} if flow.references else set())
    assert columns | added == set(mapping(flow)["mappings"]["properties"])


@pytest.mark.parametrize("flow", REFRESHES, ids=lambda flow: flow.name)
def test_a_refresh_returns_the_reference_columns_of_its_target_by_the_same_joins(
    flow: ReferenceRefresh,
) -> None:
    own = {"@timestamp", "partition", "offset", "message"}
    reference = set(sql(flow).named_selects) - own - set(flow.fields)
    assert reference == set(sql(flow.target).named_selects) - own - set(flow.target.fields)
    joins = "\nFROM slice\n"
    assert flow.sql.partition(joins)[2] == flow.target.sql.partition(joins)[2] != ""
    assert (flow.index, flow.references) == (flow.target.index, flow.target.references)


@pytest.mark.parametrize("flow", FLOWS, ids=FLOW_IDS)
def test_the_table_file_declares_the_fields_of_the_event_as_varchar(flow: AnyFlow) -> None:
    declared = table_file(flow)["message"]["fields"]
    assert tuple(field["name"] for field in declared) == flow.fields
    assert {field["type"] for field in declared} == {"VARCHAR"}
    assert [field["mapping"] for field in declared] == list(flow.fields)


@pytest.mark.parametrize("flow", FLOWS, ids=FLOW_IDS)
def test_the_sql_reads_the_flows_own_table(flow: AnyFlow) -> None:
    described = table_file(flow)
    name = ["kafka_tests", described["schemaName"], described["tableName"]]
    tables = sql(flow).find_all(expressions.Table)
    assert name in [[each.name for each in table.parts] for table in tables]


@pytest.mark.parametrize("flow", FLOWS, ids=FLOW_IDS)
def test_the_mapping_is_strict_versioned_and_carries_the_alias(flow: AnyFlow) -> None:
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


def declared(**changes: Any) -> dict[str, Any]:
    texts = dict.fromkeys(("name", "topic", "asset", "description", "sql"), "x")
    return {**texts, "fields": ("x",), **changes}


@pytest.mark.parametrize(
    "wrong",
    [
        {"id_field": "id"},  # documents would have no id
        {"id_field": "x", "allowed": {"id": ("x",)}},
    ],
)
def test_a_flow_names_only_its_own_fields(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="flow x: 'id' is not in fields"):
        Flow(**declared(index="x", mapping=ROOT, **wrong))


@pytest.mark.parametrize(
    ("key_field", "document_field", "error"),
    [
        ("id", "name", "'id' is not in fields"),
        ("x", "id", "'id' is not a field of access_log"),  # no document would be found
    ],
)
def test_a_refresh_names_only_fields_of_its_messages_and_of_its_target(
    key_field: str, document_field: str, error: str
) -> None:
    names = {"key_field": key_field, "document_field": document_field}
    with pytest.raises(ValueError, match=f"flow x: {error}"):
        ReferenceRefresh(**declared(target=ACCESS_LOG, **names))


def test_no_two_flows_share_a_topic_an_asset_or_a_name() -> None:
    for names in zip(*((flow.name, flow.topic, flow.asset) for flow in FLOWS), strict=True):
        assert len(set(names)) == len(FLOWS)
