"""The published contract and the code agree: schemas, AsyncAPI, events, table files."""

import json
from collections.abc import Iterator
from typing import Any

import pytest
import yaml  # type: ignore[import-untyped]  # comes with dagster, without stubs
from jsonschema import Draft202012Validator

from kp_platform.engine.documents import BadMessage, parse_message
from kp_platform.engine.reference_change import ReferenceChange
from kp_platform.flows.builtin import ACCESS_LOG, FLOWS, FULL_TEXT, REFERENCE_CHANGES
from kp_platform.flows.model import AnyFlow
from kp_platform_tests.stack import ROOT
from web_emitter import contract
from web_emitter.emitter.events import AccessEvent, FullTextEvent

CONTRACT = ROOT / "docs" / "contract"
SCHEMAS = {
    ACCESS_LOG.name: "access-event.schema.json",
    FULL_TEXT.name: "full-text-event.schema.json",
    REFERENCE_CHANGES.name: "reference-change.schema.json",
}
UUID = "0b8f7f0e-6f2c-4d6e-9a67-0f6d5a1c2b3d"


def schema(flow: AnyFlow) -> dict[str, Any]:
    text = (CONTRACT / SCHEMAS[flow.name]).read_text(encoding="utf-8")
    loaded: dict[str, Any] = json.loads(text)
    return loaded


def asyncapi() -> dict[str, Any]:
    loaded: dict[str, Any] = yaml.safe_load((CONTRACT / "asyncapi.yaml").read_text("utf-8"))
    return loaded


def resolved(reference: str) -> dict[str, Any]:
    """What a `$ref` of the AsyncAPI document points to; an error when it is not there."""
    if reference.startswith("./"):
        loaded: dict[str, Any] = json.loads((CONTRACT / reference).read_text("utf-8"))
        return loaded
    target: Any = asyncapi()
    for key in reference.removeprefix("#/").split("/"):
        target = target[key]
    assert isinstance(target, dict)
    return target


def references(node: Any) -> Iterator[str]:
    if isinstance(node, dict):
        yield from (value for key, value in node.items() if key == "$ref")
        for value in node.values():
            yield from references(value)
    elif isinstance(node, list):
        for value in node:
            yield from references(value)


def conforms(flow: AnyFlow, message: object) -> bool:
    return bool(Draft202012Validator(schema(flow)).is_valid(message))


def is_accepted(flow: AnyFlow, message: object) -> bool:
    try:
        parse_message(json.dumps(message), flow)
    except BadMessage:
        return False
    return True


@pytest.mark.parametrize("flow", FLOWS, ids=lambda flow: flow.name)
def test_a_schema_has_the_fields_of_its_flow_each_a_required_text(flow: AnyFlow) -> None:
    published = schema(flow)
    Draft202012Validator.check_schema(published)
    assert tuple(published["properties"]) == flow.fields == tuple(published["required"])
    assert {field["type"] for field in published["properties"].values()} == {"string"}
    enumerated = {
        name: tuple(field["enum"])
        for name, field in published["properties"].items()
        if "enum" in field
    }
    assert enumerated == dict(flow.allowed)
    assert published["additionalProperties"] is True


@pytest.mark.parametrize(
    ("flow", "body"),
    [
        (ACCESS_LOG, AccessEvent.of("/a?b=%20c", name="presto").body()),
        (FULL_TEXT, FullTextEvent(text="a\x00b\r\n").body()),
        (REFERENCE_CHANGES, ReferenceChange("redis", "presto").body()),
    ],
)
def test_what_we_write_conforms(flow: AnyFlow, body: bytes) -> None:
    assert conforms(flow, json.loads(body))
    assert parse_message(body, flow) == json.loads(body)


@pytest.mark.parametrize(
    ("flow", "message", "good"),
    [
        (ACCESS_LOG, {"uuid": UUID, "uri": "/", "name": "x"}, True),
        (ACCESS_LOG, {"uuid": UUID, "uri": "/", "name": "x", "more": [1]}, True),  # ignored
        (ACCESS_LOG, {"uuid": UUID, "uri": "", "name": ""}, True),  # unusual, but valid
        (ACCESS_LOG, {"uuid": UUID.upper(), "uri": "/", "name": "x"}, False),  # two ids for one
        (ACCESS_LOG, {"uuid": f"{{{UUID}}}", "uri": "/", "name": "x"}, False),  # in braces
        (
            ACCESS_LOG,
            {"uuid": f"{UUID}\n", "uri": "/", "name": "x"},
            False,
        ),  # Python's `$` lets it pass
        (
            ACCESS_LOG,
            {"uuid": "0" * 8 + "-0000-0000-0000-" + "0" * 12, "uri": "/", "name": "x"},
            False,
        ),
        (ACCESS_LOG, {"uuid": UUID, "uri": "/"}, False),  # no name
        (ACCESS_LOG, {"uuid": UUID, "uri": "/", "name": None}, False),  # null is no text
        (ACCESS_LOG, {"uuid": 5, "uri": "/", "name": "x"}, False),
        (ACCESS_LOG, [UUID, "/", "x"], False),  # not an object
        (ACCESS_LOG, "text", False),
        (FULL_TEXT, {"uuid": UUID, "text": ""}, True),  # indexed, left out of the page
        (FULL_TEXT, {"uuid": UUID}, False),
        (REFERENCE_CHANGES, {"source": "mysql", "key": "presto"}, True),
        (REFERENCE_CHANGES, {"source": "oracle", "key": "presto"}, False),
        (REFERENCE_CHANGES, {"source": "MySQL", "key": "presto"}, False),
        (REFERENCE_CHANGES, {"source": "redis"}, False),
    ],
)
def test_schema_and_indexer_accept_and_reject_the_same_messages(
    flow: AnyFlow, message: object, good: bool
) -> None:
    assert (conforms(flow, message), is_accepted(flow, message)) == (good, good)


def test_the_built_in_flows_have_the_topics_indices_and_fields_of_the_contract() -> None:
    access_log = (ACCESS_LOG.name, ACCESS_LOG.topic, ACCESS_LOG.index, tuple(ACCESS_LOG.fields))
    assert access_log == (
        contract.ACCESS_LOG_FLOW,
        contract.ACCESS_LOG_TOPIC,
        contract.ACCESS_LOG_INDEX,
        contract.ACCESS_LOG_FIELDS,
    )
    assert (FULL_TEXT.topic, FULL_TEXT.index, tuple(FULL_TEXT.fields)) == (
        contract.FULL_TEXT_TOPIC,
        contract.FULL_TEXT_INDEX,
        contract.FULL_TEXT_FIELDS,
    )
    assert REFERENCE_CHANGES.topic == contract.REFERENCE_CHANGES_TOPIC


def test_every_reference_of_the_asyncapi_document_is_there() -> None:
    found = list(references(asyncapi()))
    assert len(found) > 10
    assert all(resolved(each) for each in found)


def test_the_asyncapi_document_has_what_its_specification_demands() -> None:
    """https://www.asyncapi.com/docs/reference/specification/v3.0.0"""
    document = asyncapi()
    assert document["asyncapi"] == "3.0.0"
    assert {"title", "version"} <= document["info"].keys()
    assert all({"host", "protocol"} <= each.keys() for each in document["servers"].values())
    for operation in document["operations"].values():
        assert operation["action"] in {"send", "receive"}
        assert "address" in resolved(operation["channel"]["$ref"])


def test_every_topic_is_a_channel_with_the_schema_of_its_flow() -> None:
    document = asyncapi()
    by_topic = {}
    for channel in document["channels"].values():
        [message] = channel["messages"].values()
        payload = resolved(message["$ref"])["payload"]
        by_topic[channel["address"]] = payload["schema"]["$ref"].removeprefix("./")
    assert by_topic == {flow.topic: SCHEMAS[flow.name] for flow in FLOWS}


def test_every_example_conforms() -> None:
    flows = {flow.topic: flow for flow in FLOWS}
    for channel in asyncapi()["channels"].values():
        [message] = channel["messages"].values()
        for example in resolved(message["$ref"])["examples"]:
            assert conforms(flows[channel["address"]], example["payload"])


def test_the_headers_are_those_that_we_write() -> None:
    schemas = asyncapi()["components"]["schemas"]
    common = set(schemas["headers"]["properties"])
    cut = AccessEvent.of("/" + "x" * 10_000, name="presto")
    extra = set(schemas["accessHeaders"]["allOf"][1]["properties"])
    assert {name for name, _ in cut.headers()} == common | extra
    assert {name for name, _ in FullTextEvent(text="x").headers()} == common
    assert {name for name, _ in ReferenceChange("mysql", "x").headers(0)} == common
    written = [
        cut.headers(),
        FullTextEvent(text="x").headers(),
        ReferenceChange("mysql", "x").headers(0),
    ]
    types = {str(dict(headers)["ce_type"], "ascii") for headers in written}  # type: ignore[arg-type]
    assert types == set(schemas["headers"]["properties"]["ce_type"]["enum"])
