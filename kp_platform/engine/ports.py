"""The few verbs the pipeline needs of the log, Kafka.

Belongs here: the `Log` protocol and the bytes of a message. Does not belong here: reading events in
bulk, which Trino does (`query.py`).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from kp_platform.engine.offsets import OffsetRange, TopicState


@dataclass(frozen=True, slots=True)
class RawMessage:
    """A message as its bytes lie in the topic; `value` is None for a tombstone."""

    key: bytes | None
    value: bytes | None


class Log(Protocol):
    """Kafka, as far as the pipeline knows it."""

    def topic_state(self, topic: str) -> TopicState:
        """Topic id and watermarks as of now; messages of an open transaction are not there yet."""

    def raw_messages(
        self, topic: str, offsets: Sequence[tuple[int, int]]
    ) -> dict[tuple[int, int], RawMessage]:
        """The messages at these (partition, offset), byte for byte."""

    def present(self, topic: str, part: OffsetRange) -> set[int]:
        """Which offsets of a range hold a message. Others are the markers of transactions, messages
        of aborted ones, or were compacted away. Raises SliceError when the log ends before."""

    def offsets_at(self, topic: str, moment: datetime) -> dict[int, int]:
        """For each partition the first offset whose timestamp is not before a moment; where there
        is none, the high watermark."""

    def commit(self, group: str, topic: str, offsets: Mapping[int, int]) -> None:
        """Mirror positions to a consumer group, best effort: a failure is logged, not raised."""
