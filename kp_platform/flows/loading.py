"""Flows from their folders.

Belongs here: reading `flow.yaml` and the files beside it, and error messages that name the file and
the member at fault. Does not belong here: what a flow is (`model.py`).

A folder holds `flow.yaml`, `table.json` (the topic as a table of Trino) and, for a flow with
documents, `query.sql` and `mapping.json`. The name of the folder is the name of the flow. The file
of a reference refresh has a member `refreshes`, the name of the target flow, and needs no SQL.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import yaml  # type: ignore[import-untyped]  # comes with dagster, without stubs

from kp_platform.flows.model import AnyFlow, Flow, ReferenceRefresh
from kp_platform.flows.refresh_sql import refresh_sql

DECLARATION = "flow.yaml"

_Declared = TypeVar("_Declared", Flow, ReferenceRefresh)

_COMMON = {"topic", "asset", "description", "fields"}
_OPTIONAL = {"allowed", "slice_rows", "stale_hours"}
_FLOW = _COMMON | {"index"}
_REFRESH = _COMMON | {"refreshes", "key", "document_field"}


def load_flows(root: Path, first: Sequence[str] = ()) -> tuple[AnyFlow, ...]:
    """The flows of all folders below `root` with a declaration: those named in `first`, then the
    others by name. Raises ValueError."""
    folders = sorted(path.parent for path in root.glob(f"*/{DECLARATION}"))
    declared = {folder: _declaration(folder) for folder in folders}
    flows: dict[str, AnyFlow] = {}
    targets: dict[str, Flow] = {}
    for folder, members in declared.items():
        if "refreshes" not in members:
            flows[folder.name] = targets[folder.name] = _flow(folder, members)
    for folder, members in declared.items():
        if "refreshes" in members:
            flows[folder.name] = _refresh(folder, members, targets)
    order = [*(name for name in first if name in flows), *sorted(flows.keys() - set(first))]
    return tuple(flows[name] for name in order)


def load_flow(folder: Path) -> Flow:
    """The flow of one folder. Raises ValueError."""
    return _flow(folder, _declaration(folder))


def _declaration(folder: Path) -> dict[str, Any]:
    path = folder / DECLARATION
    try:
        members = yaml.safe_load(path.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise ValueError(f"{path}: not YAML: {error}") from None
    if not isinstance(members, dict):
        raise ValueError(f"{path}: not a mapping of members")
    return members


def _flow(folder: Path, members: Mapping[str, Any]) -> Flow:
    path = folder / DECLARATION
    values = _checked(path, members, _FLOW, _OPTIONAL | {"id", "references"})
    if "id" in values:
        values["id_field"] = values.pop("id")
    sql = (folder / "query.sql").read_text(encoding="utf-8")
    return _made(path, Flow, name=folder.name, mapping=folder / "mapping.json", sql=sql, **values)


def _refresh(
    folder: Path, members: Mapping[str, Any], targets: Mapping[str, Flow]
) -> ReferenceRefresh:
    path = folder / DECLARATION
    values = _checked(path, members, _REFRESH, _OPTIONAL)
    name, key_field = values.pop("refreshes"), values.pop("key")
    if name not in targets:
        raise ValueError(f"{path}: refreshes: there is no flow {name!r} with documents")
    target = targets[name]
    try:
        sql = refresh_sql(
            target.sql,
            target.fields,
            table_name(folder / "table.json"),
            values["fields"],
            key_field,
            values["document_field"],
        )
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
    header = f"-- The reference data of each message's {key_field}; made from the SQL of {name}.\n"
    return _made(
        path,
        ReferenceRefresh,
        name=folder.name,
        target=target,
        key_field=key_field,
        sql=header + sql,
        **values,
    )


def table_name(path: Path) -> str:
    """The full name in Trino of the table that a table file declares, quoted."""
    table = json.loads(path.read_text(encoding="utf-8"))
    return f'kafka_tests."{table["schemaName"]}"."{table["tableName"]}"'


def _made(path: Path, kind: Callable[..., _Declared], **values: Any) -> _Declared:
    try:
        return kind(**values)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None


def _checked(
    path: Path, members: Mapping[str, Any], required: set[str], optional: set[str]
) -> dict[str, Any]:
    """The members as the model takes them."""
    if missing := sorted(required - members.keys()):
        raise ValueError(f"{path}: {missing[0]} is missing")
    if unknown := sorted(str(name) for name in members.keys() - required - optional):
        raise ValueError(
            f"{path}: unknown member {unknown[0]}; known: {_listed(required | optional)}"
        )
    return {name: _value(path, name, value) for name, value in members.items()}


def _value(path: Path, name: str, value: Any) -> Any:
    accepted, expected, convert = _KINDS.get(name, _TEXT)
    if not accepted(value):
        raise ValueError(f"{path}: {name} is not {expected}")
    return convert(value)


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and bool(value)


def _is_texts(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(map(_is_text, value))


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value > 0


def _is_map(of: Callable[[Any], bool]) -> Callable[[Any], bool]:
    return lambda value: (
        isinstance(value, dict) and all(_is_text(key) and of(each) for key, each in value.items())
    )


def _listed(names: set[str]) -> str:
    return ", ".join(sorted(names))


_TEXT: tuple[Callable[[Any], bool], str, Callable[[Any], Any]] = (_is_text, "a text", str)
_KINDS: dict[str, tuple[Callable[[Any], bool], str, Callable[[Any], Any]]] = {
    "fields": (_is_texts, "a list of texts", tuple),
    "slice_rows": (_is_count, "a positive number", int),
    "stale_hours": (_is_count, "a positive number", int),
    "references": (_is_map(_is_text), "a mapping of texts to texts", dict),
    "allowed": (
        _is_map(_is_texts),
        "a mapping of texts to lists of texts",
        lambda value: {name: tuple(values) for name, values in value.items()},
    ),
}
