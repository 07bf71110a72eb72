"""The flows, declared: a topic, the SQL that enriches it, and the index it lands in.

Belongs here: one `Flow` value for each flow. Does not belong here: how a flow is run (`pipeline/`)
or shown in Dagster (`assets.py`). A new flow is a new value here, one table file in
`presto_etc/kafka/`, one file in `sql/` and one in `mappings/`; see docs/how-to/add-a-flow.md.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

_PACKAGE = Path(__file__).parent


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
    that may be quiet. `folder` holds `sql/` and `mappings/`.
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
    folder: Path = _PACKAGE

    def __post_init__(self) -> None:
        identity = self.rewrites.key_field if self.rewrites else self.id_field
        for name in (identity, *self.allowed):
            if name not in self.fields:
                raise ValueError(f"flow {self.name}: {name!r} is not in fields")

    @property
    def sql_path(self) -> Path:
        return self.folder / "sql" / f"{self.name}.sql"

    @property
    def mappings(self) -> Path:
        return self.folder / "mappings"

    def daily_index(self, day: str) -> str:
        """The name of the index that holds the events of a day, e.g. `2026-01-31`."""
        return f"{self.index}-{day.replace('-', '.')}"

    @property
    def consumer_group(self) -> str:
        """The group that mirrors the positions for lag tools; never read by the platform."""
        return f"kp-{self.name.replace('_', '-')}"


ACCESS_LOG = Flow(
    name="access_log",
    topic="analyze.action",
    index="log.index",
    asset="enriched_access_log",
    description="Every access of a web application, with the MySQL row and Redis value of its name",
    fields=("uuid", "uri", "name"),
    references={"mysql": "test_id", "redis": "redis_key"},
    stale_hours=24,
)

FULL_TEXT = Flow(
    name="full_text",
    topic="fulltext.register",
    index="fulltext.register",
    asset="full_text_notes",
    description="Every note that a visitor registered, searchable by its words",
    fields=("uuid", "text"),
)

REFERENCE_CHANGES = Flow(
    name="reference_changes",
    topic="reference.changed",
    index=ACCESS_LOG.index,
    asset="followed_reference_changes",
    description="Access logs rewritten after the MySQL row or Redis value of their name changed",
    fields=("source", "key"),
    allowed={"source": tuple(ACCESS_LOG.references)},
    references=ACCESS_LOG.references,
    rewrites=Rewrite(target=ACCESS_LOG, key_field="key", document_field="name"),
    slice_rows=500,  # each key of a slice is looked for in the index by itself
)

FLOWS = (ACCESS_LOG, FULL_TEXT, REFERENCE_CHANGES)
