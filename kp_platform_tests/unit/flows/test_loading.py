"""Flows from folders: what is loaded, and errors that name the file and the member at fault."""

import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml  # type: ignore[import-untyped]  # comes with dagster, without stubs

from kp_platform.flows import builtin
from kp_platform.flows.builtin import ACCESS_LOG, FLOWS, REFERENCE_CHANGES
from kp_platform.flows.loading import load_flow, load_flows
from kp_platform.flows.model import ReferenceRefresh
from kp_platform.flows.refresh_sql import refresh_sql
from kp_platform_tests.stack import ROOT

FOLDERS = Path(builtin.__file__).parent
ORDERS = ROOT / "kp_platform_tests" / "toy_flow" / "orders"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A copy of the built-in flows and the toy flow."""
    for folder in (*FOLDERS.glob("*/"), ORDERS):
        if (folder / "flow.yaml").exists():
            shutil.copytree(folder, tmp_path / folder.name)
    return tmp_path


def change(path: Path, **members: Any) -> None:
    """Set members of a declaration; None removes one."""
    declared = {**yaml.safe_load(path.read_text()), **members}
    kept = {name: value for name, value in declared.items() if value is not None}
    path.write_text(yaml.safe_dump(kept))


def test_a_folder_is_a_flow_and_comes_after_the_named_ones_by_name(root: Path) -> None:
    shutil.copytree(root / "orders", root / "arrivals")
    names = [flow.name for flow in load_flows(root, first=[flow.name for flow in FLOWS])]
    assert names == ["access_log", "full_text", "reference_changes", "arrivals", "orders"]


def test_the_toy_flow_is_loaded_as_declared() -> None:
    flow = load_flow(ORDERS)
    assert (flow.name, flow.topic, flow.index) == ("orders", "shop.order", "shop.orders")
    assert (flow.fields, flow.id_field) == (("uuid", "customer", "euros"), "uuid")
    assert (flow.references, flow.stale_hours) == ({"mysql": "customer_id"}, None)
    assert flow.sql == (ORDERS / "query.sql").read_text()
    assert flow.mapping == ORDERS / "mapping.json"


def test_the_refresh_is_loaded_with_its_target() -> None:
    assert isinstance(REFERENCE_CHANGES, ReferenceRefresh)
    assert REFERENCE_CHANGES.target is ACCESS_LOG
    assert (REFERENCE_CHANGES.key_field, REFERENCE_CHANGES.document_field) == ("key", "name")
    assert REFERENCE_CHANGES.allowed == {"source": tuple(ACCESS_LOG.references)}


@pytest.mark.parametrize(
    ("members", "error"),
    [
        ({"topic": None}, "topic is missing"),
        ({"tipoc": "shop.order"}, "unknown member tipoc; known: allowed, asset, "),
        ({"fields": "uuid"}, "fields is not a list of texts"),
        ({"fields": ["uuid", 1]}, "fields is not a list of texts"),
        ({"fields": []}, "fields is not a list of texts"),
        ({"topic": 5}, "topic is not a text"),
        ({"topic": ""}, "topic is not a text"),
        ({"references": ["mysql"]}, "references is not a mapping of texts to texts"),
        ({"allowed": {"uuid": "x"}}, "allowed is not a mapping of texts to lists of texts"),
        ({"slice_rows": 0}, "slice_rows is not a positive number"),
        ({"stale_hours": True}, "stale_hours is not a positive number"),  # YAML's `yes`
        ({"id": "id"}, "flow orders: 'id' is not in fields"),
        (
            {"refreshes": "access_log"},
            "document_field is missing",
        ),  # as a refresh
    ],
)
def test_a_wrong_declaration_is_an_error_that_names_file_and_member(
    root: Path, members: dict[str, Any], error: str
) -> None:
    change(root / "orders" / "flow.yaml", **members)
    with pytest.raises(ValueError, match=rf"orders/flow\.yaml: {error}"):
        load_flows(root)


@pytest.mark.parametrize(
    ("members", "error"),
    [
        ({"refreshes": "nothing"}, "refreshes: there is no flow 'nothing' with documents"),
        ({"index": "log.index"}, "unknown member index"),  # it is that of the target
        ({"document_field": "id"}, "flow reference_changes: 'id' is not a field of access_log"),
        ({"key": "uri", "fields": ["uri"], "allowed": None}, "uri is a field of both flows"),
    ],
)
def test_a_wrong_declaration_of_a_refresh_is_an_error(
    root: Path, members: dict[str, Any], error: str
) -> None:
    change(root / "reference_changes" / "flow.yaml", **members)
    with pytest.raises(ValueError, match=rf"reference_changes/flow\.yaml: {error}"):
        load_flows(root)


@pytest.mark.parametrize("text", ["", "- topic", "topic: ["])
def test_a_file_that_is_no_declaration_is_an_error(root: Path, text: str) -> None:
    (root / "orders" / "flow.yaml").write_text(text)
    with pytest.raises(ValueError, match=r"orders/flow\.yaml: not "):
        load_flows(root)


def test_the_sql_of_a_refresh_is_made_from_that_of_its_target() -> None:
    assert REFERENCE_CHANGES.sql.startswith(
        """\
-- The reference data of each message's key; made from the SQL of access_log.
WITH slice AS (
    SELECT
        _partition_id,
        _partition_offset,
        _timestamp,
        _message,
        CAST(NULL AS VARCHAR) AS uuid,
        CAST(NULL AS VARCHAR) AS uri,
        key AS name,
        source,
        key
    FROM kafka_tests."reference"."changed"
    WHERE _partition_id = 0 AND _partition_offset >= 0 AND _partition_offset < 100
)
SELECT
    slice.source,
    slice.key,
    slice._timestamp AS "@timestamp",
    reference_keys.redis_key,
    reference_keys.redis_value,
    tests.test_id,
    tests.test_name,
    tests.created_at,
    slice._partition_id AS partition,
    slice._partition_offset AS "offset",
    slice._message AS message
FROM slice
LEFT JOIN (
"""
    )


def test_columns_that_the_target_computes_from_its_own_messages_are_left_out() -> None:
    """They would be NULL, and overwrite those of the documents."""
    orders = load_flow(ORDERS)
    with_dates = orders.sql.replace(
        "    slice._partition_id AS",
        "    date(slice._timestamp) AS day,\n    coalesce(tests.x, slice.customer, 'a, (b') AS who,"
        "\n    slice._partition_id AS",
    )
    made = refresh_sql(with_dates, orders.fields, "t", ("id",), "id", "customer")
    outer = made[made.index(")\nSELECT") : made.index("\nFROM slice")]
    assert "total" not in outer
    assert "day" not in outer
    assert "    slice.customer,\n" not in outer
    assert "tests.test_id AS customer_id" in outer
    assert "coalesce(tests.x, slice.customer, 'a, (b') AS who" in outer


@pytest.mark.parametrize(
    ("old", "new", "error"),
    [
        ("WITH slice AS", "WITH part AS", "the SQL of the target has no"),
        (", euros\n", ", euros AS price\n", "the slice of the target selects 'euros AS price'"),
    ],
)
def test_a_target_whose_sql_has_another_form_is_an_error(old: str, new: str, error: str) -> None:
    orders = load_flow(ORDERS)
    sql = orders.sql.replace(old, new)
    with pytest.raises(ValueError, match=error):
        refresh_sql(sql, orders.fields, "t", ("id",), "id", "customer")
