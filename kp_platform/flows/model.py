"""The model of a flow: a topic, the SQL that enriches it, and the index it lands in.

Belongs here: the values that declare a flow or a reference refresh, and their checks. Does not
belong here: reading declarations from files (`loading.py`), the built-in flows (`builtin.py`), how
a flow is run (`engine/`) or shown in Dagster (`orchestration/`).
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True, slots=True, kw_only=True)
class _Declaration:
    """What a flow and a reference refresh have in common.

    `fields` are the message's JSON members, each a string. `allowed` restricts a member to the
    listed values. `slice_rows` bounds a slice further than KP_SLICE_ROWS. A topic without a message
    for `stale_hours` is reported as stale; None: a silent topic is never reported. `sql` is the
    query that enriches a slice, written for the first 100 offsets of partition 0.
    """

    name: str
    topic: str
    asset: str
    description: str
    fields: tuple[str, ...]
    allowed: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    slice_rows: int | None = None
    stale_hours: int | None = None
    sql: str = field(repr=False)

    @property
    def consumer_group(self) -> str:
        """The group that mirrors the positions for lag tools; the platform never reads it."""
        return f"kp-{self.name.replace('_', '-')}"

    def _check_fields(self, names: Iterable[str]) -> None:
        for name in names:
            if name not in self.fields:
                raise ValueError(f"flow {self.name}: {name!r} is not in fields")


@dataclass(frozen=True, slots=True, kw_only=True)
class Flow(_Declaration):
    """A topic whose messages become documents of an index.

    `id_field` is the message's member that identifies an event; it becomes the document's `_id`.
    `references` maps a reference source to the column of the SQL that is NULL when that source has
    no row for the event. `mapping` is the file of the index template for the daily indices.
    """

    index: str
    id_field: str = "uuid"
    references: Mapping[str, str] = field(default_factory=dict)
    mapping: Path

    def __post_init__(self) -> None:
        self._check_fields((self.id_field, *self.allowed))

    def daily_index(self, day: str) -> str:
        """The name of the index that holds the events of a day, e.g. `2026-01-31`."""
        return f"{self.index}-{day.replace('-', '.')}"


@dataclass(frozen=True, slots=True, kw_only=True)
class ReferenceRefresh(_Declaration):
    """A topic whose messages re-enrich documents of another flow, `target`.

    The documents of the target whose field `document_field` equals the message's `key_field` get
    the reference data that the SQL returns for that key.
    """

    target: Flow
    key_field: str
    document_field: str

    def __post_init__(self) -> None:
        self._check_fields((self.key_field, *self.allowed))
        if self.document_field not in self.target.fields:
            raise ValueError(
                f"flow {self.name}: {self.document_field!r} is not a field of {self.target.name}"
            )

    @property
    def index(self) -> str:
        """The index of the target."""
        return self.target.index

    @property
    def mapping(self) -> Path:
        """The index template of the target."""
        return self.target.mapping

    @property
    def references(self) -> Mapping[str, str]:
        """The reference sources of the target."""
        return self.target.references


AnyFlow = Flow | ReferenceRefresh


def document_flows(flows: Iterable[AnyFlow]) -> list[Flow]:
    """The flows that have documents of their own."""
    return [flow for flow in flows if isinstance(flow, Flow)]
