"""Column lineage of the indices, as metadata of Dagster.

Belongs here: the columns of a flow's documents, their types by the mapping, their sources by the
SQL that runs. Does not belong here: how a column becomes a field (`engine/documents.py`).
"""

import json
from collections.abc import Iterator, Mapping
from typing import Any

import dagster as dg
from sqlglot import expressions, parse_one
from sqlglot.lineage import lineage

from kp_platform.engine.offsets import OffsetRange, Slice
from kp_platform.engine.sql import slice_query
from kp_platform.flows.model import AnyFlow, ReferenceRefresh
from kp_platform.orchestration.asset_keys import REFERENCE_ROWS, REFERENCE_VALUES, topic_key

# The fields that the engine adds to the columns of the SQL.
ADDED = {
    "topic": "the topic of the event",
    "run_id": "the Dagster run that indexed the event",
    "indexed_at": "when the document was sent to Elasticsearch",
    "delay_ms": "milliseconds from the event to `indexed_at`",
    "enrichment.state": "complete, partial or none, by how many sources have a row for the event",
    "enrichment.missing": "the sources without a row for the event",
}
_ONE = Slice((OffsetRange(0, 0, 1),))

Source = tuple[str, str]  # the full name of a table in Trino, and one of its columns


def sources(flow: AnyFlow) -> dict[str, tuple[Source, ...]]:
    """The columns of the flow's query, each with the table columns that it is derived from."""
    query = parse_one(slice_query(flow, _ONE)[0], dialect="trino")
    for select in query.find_all(expressions.Select):
        _qualify(select)
    return {
        column: tuple(sorted(set(_tables(node))))
        for column, node in lineage(None, query, schema={}, dialect="trino").items()
    }


def _qualify(select: expressions.Select) -> None:
    """Qualify the columns of a SELECT from one table. Without a schema sqlglot does not assume that
    they belong to it: in a subquery of a join they may be columns of an outer table."""
    table = select.args["from_"].this
    if isinstance(table, expressions.Table) and not select.args.get("joins"):
        for column in select.find_all(expressions.Column):
            if column.parent_select is select and not column.table:
                column.set("table", expressions.to_identifier(table.alias_or_name))


def _tables(node: Any) -> Iterator[Source]:
    for each in node.walk():
        if isinstance(each.expression, expressions.Table):
            table = each.expression
            yield f"{table.catalog}.{table.db}.{table.name}", each.name.rpartition(".")[2]


def column_metadata(flow: AnyFlow) -> dict[str, Any]:
    """The schema and the lineage of the columns that the flow writes. The open-source UI shows no
    column lineage, so the descriptions contain it too."""
    # By Trino catalog.
    tables = {
        "kafka_tests": topic_key(flow),
        "my_tests": REFERENCE_ROWS,
        "red_tests": REFERENCE_VALUES,
    }
    found = sources(flow)
    types = _types(flow)
    written = [column for column in types if column in found or column in ADDED]
    if isinstance(flow, ReferenceRefresh):  # columns of messages are in no document of its own
        own = {"@timestamp", "partition", "offset", *flow.fields, *flow.target.fields}
        written = [column for column in written if column in found and column not in own]
    schema = dg.TableSchema(
        columns=[
            dg.TableColumn(column, types[column], description=_origin(column, found))
            for column in written
        ]
    )
    deps = {
        column: [
            dg.TableColumnDep(asset_key=tables[table.partition(".")[0]], column_name=name)
            for table, name in found[column]
        ]
        for column in written
        if column in found
    }
    return {
        "dagster/column_schema": schema,
        "dagster/column_lineage": dg.TableColumnLineage(deps_by_column=deps),
    }


def _origin(column: str, found: Mapping[str, tuple[Source, ...]]) -> str:
    if column in found:
        return "from " + ", ".join(f"{table}.{name}" for table, name in found[column])
    return f"added: {ADDED[column]}"


def _types(flow: AnyFlow) -> dict[str, str]:
    """The fields of the mapping with their types; members of objects with their full names."""
    text = flow.mapping.read_text()
    return dict(_flat(json.loads(text)["template"]["mappings"]["properties"]))


def _flat(properties: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    for name, field in properties.items():
        if "properties" in field:
            yield from _flat(field["properties"], f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", field["type"]
