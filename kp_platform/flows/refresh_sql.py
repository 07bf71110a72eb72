"""The SQL of a reference refresh, made from the SQL of its target flow.

Belongs here: text in, text out. Does not belong here: branches and parameters of a slice
(`engine/sql.py`).

The joins stay those of the target, byte for byte. Only the slice that they join to changes: it
reads the topic of the refresh, and its key replaces the document field of the target.
"""

import re
from collections.abc import Iterator, Sequence

# The hidden columns whose values are those of the message, whatever its topic.
_MESSAGE_COLUMNS = ("@timestamp", "partition", "offset", "message")
_SLICE = re.compile(
    r"^WITH slice AS \(\s*SELECT\s+(?P<columns>[^()]*?)\s+FROM\s+(?P<table>\S+)\s+WHERE\s",
    re.MULTILINE,
)
# The outer SELECT starts a line; those of joined subqueries are indented.
_OUTER = re.compile(r"^SELECT\s+(?P<columns>.*?)\nFROM slice\b", re.MULTILINE | re.DOTALL)
_SLICE_COLUMN = re.compile(r"\bslice\.(\w+)")


def refresh_sql(
    target_sql: str,
    target_fields: Sequence[str],
    table: str,
    fields: Sequence[str],
    key_field: str,
    document_field: str,
) -> str:
    """SQL that returns the message columns, `fields`, and the target's reference columns.

    Columns that the target computes from its own messages are left out: a refresh has no such
    messages. Raises ValueError when the SQL of the target is not in the expected form.
    """
    if clashing := sorted(set(fields) & set(target_fields)):
        raise ValueError(f"{', '.join(clashing)} is a field of both flows")
    slice_, outer = _SLICE.search(target_sql), _OUTER.search(target_sql)
    if slice_ is None or outer is None:
        raise ValueError("the SQL of the target has no `WITH slice AS (SELECT ... WHERE` or SELECT")
    inner = [
        _inner_column(column, target_fields, key_field, document_field)
        for column in _columns(slice_["columns"])
    ]
    own = [f"slice.{name}" for name in fields]
    kept = [column for column in _columns(outer["columns"]) if _is_kept(column, document_field)]
    return (
        "WITH slice AS (\n    SELECT\n        "
        + ",\n        ".join([*inner, *fields])
        + f"\n    FROM {table}\n    WHERE "
        + target_sql[slice_.end() : outer.start()]
        + "SELECT\n    "
        + ",\n    ".join([*own, *kept])
        + target_sql[outer.end("columns") :]
    )


def _inner_column(
    column: str, target_fields: Sequence[str], key_field: str, document_field: str
) -> str:
    """A column of the target's slice, as the slice of the refresh has it."""
    if column == document_field:
        return f"{key_field} AS {document_field}"
    if column in target_fields:
        return f"CAST(NULL AS VARCHAR) AS {column}"
    if not re.fullmatch(r"_\w+", column):
        raise ValueError(f"the slice of the target selects {column!r}, not a field of its messages")
    return column


def _is_kept(column: str, document_field: str) -> bool:
    """Whether a column of the target is one of the message, or can be computed from the key."""
    name = re.split(r"[\s.]", column)[-1].strip('"')
    read = _SLICE_COLUMN.findall(column)
    return name in _MESSAGE_COLUMNS or (
        set(read) <= {document_field} and column != f"slice.{document_field}"
    )


def _columns(text: str) -> Iterator[str]:
    """The expressions of a select list: text between the commas outside brackets and quotes."""
    start = depth = 0
    quoted = False
    for at, character in enumerate(text):
        if character == "'":
            quoted = not quoted
        elif quoted:
            continue
        elif character == "," and not depth:
            yield text[start:at].strip()
            start = at + 1
        else:
            depth += (character in "([") - (character in ")]")
    yield text[start:].strip()
