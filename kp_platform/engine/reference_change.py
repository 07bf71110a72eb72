"""A change of reference data, as a message.

Belongs here: the value and its message on topic `reference.changed`. Does not belong here:
production (`adapters/reference_changes.py`) and the re-enrichment (`reference_refresh.py`).

A message carries only the key to look up, no data. It may therefore arrive twice, late or in any
order.
"""

from dataclasses import dataclass, field
from uuid import UUID, uuid4

import orjson

from web_emitter import contract

SOURCES = ("mysql", "redis")
EVENT_TYPE = "kp.reference.v1"
EVENT_SOURCE = "/kp_platform/changes"


@dataclass(frozen=True, slots=True)
class ReferenceChange:
    """The row or value of `key` in `source` (mysql or redis) was set, changed or deleted."""

    source: str
    key: str
    id: UUID = field(default_factory=uuid4)

    def __post_init__(self) -> None:
        if self.source not in SOURCES:
            raise ValueError(f"source {self.source!r} is none of {', '.join(SOURCES)}")
        if not self.key:
            raise ValueError("a change needs a key")
        self.key.encode()  # UnicodeEncodeError, a ValueError, for a lone surrogate

    def body(self) -> bytes:
        return orjson.dumps({"source": self.source, "key": self.key})

    def headers(self, now_ms: int) -> list[contract.Header]:
        """CloudEvents attributes, as the emitter's events have them."""
        event_id = str(self.id).encode()
        return contract.cloudevents_headers(event_id, EVENT_SOURCE, EVENT_TYPE, now_ms)
