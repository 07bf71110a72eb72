"""Where each column of an index comes from, told to Dagster.

Belongs here: the columns of a flow's documents, their types by the mapping, their sources by the
SQL that runs. Does not belong here: what is done with a column (`pipeline/documents.py`).
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

# What the pipeline adds to the columns of the SQL.
ADDED = {
    "topic": "the topic that the event was read from",
    "run_id": "the Dagster run that indexed the event",
    "indexed_at": "when the document was sent to Elasticsearch",
    "delay_ms": "milliseconds from the event to that",
    "enrichment.state": "complete, partial or none, by how many sources know the event",
    "enrichment.missing": "the sources that do not know the event",
}
_ONE = Slice((OffsetRange(0, 0, 1),))

Source = tuple[str, str]  # a table by its full name in Trino, and a column of it


def sources(flow: AnyFlow) -> dict[str, tuple[Source, ...]]:
    """The columns of the flow's query, each with the columns of tables that it is made of."""
    query = parse_one(slice_query(flow, _ONE)[0], dialect="trino")
    for select in query.find_all(expressions.Select):
        _qualify(select)
    return {
        column: tuple(sorted(set(_tables(node))))
        for column, node in lineage(None, query, schema={}, dialect="trino").items()
    }


def _qualify(select: expressions.Select) -> None:
    """Columns of a SELECT from one table are the table's. Without a schema sqlglot does not take
    that for granted in a join, where they might be those of a table outside."""
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


def column_metadata(flow: AnyFlow, tables: Mapping[str, dg.AssetKey]) -> dict[str, Any]:
    """The schema and the lineage of the columns that the flow writes; `tables` are the assets that
    its query reads, by catalog. The open-source UI shows no column lineage, so the descriptions
    tell it too."""
    found = sources(flow)
    types = _types(flow)
    written = [column for column in types if column in found or column in ADDED]
    if isinstance(flow, ReferenceRefresh):  # its messages' own columns reach no document
        own = {"@timestamp", "partition", "offset", *flow.fields}
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
    return f"by the pipeline: {ADDED[column]}"


def _types(flow: AnyFlow) -> dict[str, str]:
    """The fields of the mapping with their types; members of objects by their full names."""
    text = flow.mapping.read_text()
    return dict(_flat(json.loads(text)["template"]["mappings"]["properties"]))


def _flat(properties: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    for name, field in properties.items():
        if "properties" in field:
            yield from _flat(field["properties"], f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", field["type"]
