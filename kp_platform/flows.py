"""The flows, declared: a topic, the SQL that enriches it, and the index it lands in.

Belongs here: one `Flow` value for each flow. Does not belong here: how a flow is run (`pipeline/`)
or shown in Dagster (`assets.py`). A new flow is a new value here, one table file in
`presto_etc/kafka/`, one file in `sql/` and one in `mappings/`.
"""

from dataclasses import dataclass, field
from pathlib import Path

_PACKAGE = Path(__file__).parent


@dataclass(frozen=True, slots=True, kw_only=True)
class Flow:
    """One way from a topic to an index.

    `fields` are the message's JSON members, each a string; `id_field` is the one that identifies
    an event and becomes the document's `_id`. `references` maps a reference source to the column
    of the SQL that is NULL when that source has no row for the event.
    """

    name: str
    topic: str
    index: str
    description: str
    fields: tuple[str, ...]
    id_field: str = "uuid"
    references: dict[str, str] = field(default_factory=dict)
    partitions: int = 4

    def __post_init__(self) -> None:
        if self.id_field not in self.fields:
            raise ValueError(f"flow {self.name}: id_field {self.id_field!r} is not in fields")

    @property
    def sql_path(self) -> Path:
        return _PACKAGE / "sql" / f"{self.name}.sql"

    @property
    def mapping_path(self) -> Path:
        return _PACKAGE / "mappings" / f"{self.index}.json"

    @property
    def consumer_group(self) -> str:
        """The group that mirrors the positions for lag tools; never read by the platform."""
        return f"kp-{self.name.replace('_', '-')}"


ACCESS_LOG = Flow(
    name="access_log",
    topic="analyze.action",
    index="log.index",
    description="Every access of a web application, with the MySQL row and Redis value of its name",
    fields=("uuid", "uri", "name"),
    references={"mysql": "test_id", "redis": "redis_key"},
)

FLOWS = (ACCESS_LOG,)
