"""The model of a flow: a topic, the SQL that enriches it, and the index it lands in.

Belongs here: the values that declare a flow, and their checks. Does not belong here: the flows
themselves (`builtin.py`), how a flow is run (`engine/`) or shown in Dagster (`orchestration/`).
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True, slots=True, kw_only=True)
class Rewrite:
    """What a message of a flow of changes asks for: that documents of another flow follow.

    The documents of `target` whose field `document_field` equals the message's `key_field` are
    given the columns that the flow's SQL returns for that key.
    """

    target: "Flow"
    key_field: str
    document_field: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Flow:
    """One way from a topic to an index.

    `fields` are the message's JSON members, each a string; `id_field` is the one that identifies
    an event and becomes the document's `_id`. `allowed` lists the values of a member that may not
    have any other. `references` maps a reference source to the column of the SQL that is NULL when
    that source has no row for the event. With `rewrites`, messages become no documents of their
    own: they make documents of another flow follow a change. `slice_rows` bounds a slice further
    than KP_SLICE_ROWS. `stale_hours` without a message are an alarm; None: no alarm, for a topic
    that may be quiet. `folder` holds `query.sql`, `table.json`
    and `mapping.json`.
    """

    name: str
    topic: str
    index: str
    asset: str
    description: str
    fields: tuple[str, ...]
    id_field: str = "uuid"
    allowed: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    references: Mapping[str, str] = field(default_factory=dict)
    rewrites: Rewrite | None = None
    slice_rows: int | None = None
    stale_hours: int | None = None
    folder: Path

    def __post_init__(self) -> None:
        identity = self.rewrites.key_field if self.rewrites else self.id_field
        for name in (identity, *self.allowed):
            if name not in self.fields:
                raise ValueError(f"flow {self.name}: {name!r} is not in fields")

    @property
    def query(self) -> Path:
        """The SQL that enriches a slice."""
        return self.folder / "query.sql"

    @property
    def mapping(self) -> Path:
        """The index template of the flow's daily indices."""
        owner = self.rewrites.target if self.rewrites else self
        return owner.folder / "mapping.json"

    def daily_index(self, day: str) -> str:
        """The name of the index that holds the events of a day, e.g. `2026-01-31`."""
        return f"{self.index}-{day.replace('-', '.')}"

    @property
    def consumer_group(self) -> str:
        """The group that mirrors the positions for lag tools; never read by the platform."""
        return f"kp-{self.name.replace('_', '-')}"
