"""A flow's SQL, table file, mapping and event agree, field by field."""

import json
from typing import Any

import pytest
import sqlglot
from sqlglot import expressions

from kp_platform.flows.builtin import ACCESS_LOG, FLOWS
from kp_platform.flows.model import Flow, Rewrite
from kp_platform_tests.stack import ROOT
from web_emitter.emitter.events import AccessEvent

FLOW_IDS = [flow.name for flow in FLOWS]
# What the pipeline adds to the columns of the SQL; `message` is for its eyes only.
ADDED = {"topic", "indexed_at", "run_id", "delay_ms"}


def sql(flow: Flow) -> expressions.Select:
    parsed = sqlglot.parse_one(flow.query.read_text(), dialect="trino")
    assert isinstance(parsed, expressions.Select)
    return parsed


def mapping(flow: Flow) -> dict[str, Any]:
    text = flow.mapping.read_text()
    template: dict[str, Any] = json.loads(text)["template"]
    return template


def table_file(flow: Flow) -> dict[str, Any]:
    found: list[dict[str, Any]] = [
        table
        for path in (ROOT / "presto_etc" / "kafka").glob("*.json")
        if (table := json.loads(path.read_text()))["topicName"] == flow.topic
    ]
    assert len(found) == 1
    return found[0]


INDEXING = [flow for flow in FLOWS if flow.rewrites is None]
REWRITING = [flow for flow in FLOWS if flow.rewrites is not None]


@pytest.mark.parametrize("flow", INDEXING, ids=lambda flow: flow.name)
def test_the_columns_of_the_sql_are_the_fields_of_the_mapping(flow: Flow) -> None:
    columns = set(sql(flow).named_selects) - {"message"}
    added = ADDED | ({"enrichment"} if flow.references else set())
    assert columns | added == set(mapping(flow)["mappings"]["properties"])


@pytest.mark.parametrize("flow", REWRITING, ids=lambda flow: flow.name)
def test_a_change_brings_what_the_rewritten_flow_joins_by_the_same_joins(flow: Flow) -> None:
    assert flow.rewrites is not None
    target, key = flow.rewrites.target, flow.rewrites.key_field
    own = {"@timestamp", "partition", "offset", "message"}
    brought = set(sql(flow).named_selects) - own - set(flow.fields)
    assert brought == set(sql(target).named_selects) - own - set(target.fields)
    joins = [join.sql() for join in sql(flow).args["joins"]]
    theirs = [join.sql() for join in sql(target).args["joins"]]
    name = flow.rewrites.document_field
    assert joins == [
        join.replace(f"slice.{name}", f"slice.{key}").replace(
            f"SELECT {name} FROM slice", f"SELECT {key} FROM slice"
        )
        for join in theirs
    ]
    assert (flow.index, flow.references) == (target.index, target.references)


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


@pytest.mark.parametrize(
    "wrong",
    [
        {"id_field": "id"},  # documents would have no id
        {"allowed": {"id": ("x",)}},
        {"rewrites": Rewrite(target=ACCESS_LOG, key_field="id", document_field="name")},
    ],
)
def test_a_flow_names_only_its_own_fields(wrong: dict[str, Any]) -> None:
    flow = dict.fromkeys(("name", "topic", "index", "asset", "description", "id_field"), "x")
    right: dict[str, Any] = {**flow, "fields": ("x",), "folder": ROOT}
    with pytest.raises(ValueError, match="flow x: 'id' is not in fields"):
        Flow(**{**right, **wrong})


def test_no_two_flows_share_a_topic_an_asset_or_a_name() -> None:
    for names in zip(*((flow.name, flow.topic, flow.asset) for flow in FLOWS), strict=True):
        assert len(set(names)) == len(FLOWS)
