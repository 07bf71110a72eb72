"""What is announced on Kafka: framework-free values that any language can consume.

Belongs here: the events, their checks, their bytes. Does not belong here: reading a request
(`middleware.py`), who accessed (`identity.py`) and sending (`producer.py`).

The body is the contract, exactly the fields of `presto_etc/kafka/*.json`. What else is known
travels beside it as CloudEvents attributes in Kafka headers ("binary content mode",
https://github.com/cloudevents/spec/blob/main/cloudevents/bindings/kafka-protocol-binding.md).
"""

import re
import time
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import lru_cache
from typing import ClassVar, Protocol, Self
from uuid import UUID, uuid4

import orjson

# Characters. Elasticsearch refuses a keyword over 32,766 bytes; servers answer 414 long before.
MAX_URI_LENGTH = 8_192
# Characters, as wide as the column a name is joined with: testing.tests.test_name varchar(85).
MAX_NAME_LENGTH = 85

# Characters, a line break of a browser (CR LF) being two. As UTF-8 at most 80 kB.
MAX_TEXT_LENGTH = 20_000

ACCESS_EVENT_TYPE = "kp.access.v1"
FULL_TEXT_EVENT_TYPE = "kp.fulltext.v1"

_ABSOLUTE_FORM = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://[^/?]*(.*)")

# As wide as confluent-kafka's type, for a list is invariant.
Header = tuple[str, str | bytes | None]


class Event(Protocol):
    """What a producer can send. `timestamp_ms` is when it happened, in ms since 1970 UTC."""

    @property
    def timestamp_ms(self) -> int: ...

    def body(self) -> bytes: ...

    def headers(self) -> list[Header]: ...


def now_ms() -> int:
    """Milliseconds since 1970 UTC."""
    return time.time_ns() // 1_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class _CloudEvent:
    """What every event says of itself, in its headers. Raises ValueError when it is no event."""

    type: ClassVar[str]

    source: str = "/"
    uuid: UUID = field(default_factory=uuid4)
    timestamp_ms: int = field(default_factory=now_ms)

    def __post_init__(self) -> None:
        if not _is_version_4(self.uuid):
            raise ValueError("uuid is not a version 4 UUID")

    def headers(self) -> list[Header]:
        version, source, kind = _same_of_all(self.type, self.source)
        identity = ("ce_id", orjson.dumps(self.uuid)[1:-1])
        return [version, identity, source, kind, ("ce_time", _rfc3339(self.timestamp_ms))]


@dataclass(frozen=True, slots=True, kw_only=True)
class AccessEvent(_CloudEvent):
    """One access of one URL. `uri` is as the server received it: percent-encoded, never decoded.

    Raises ValueError when a field breaks the contract. `truncated` says that the URI was longer
    than MAX_URI_LENGTH and cut there; it travels as the extension attribute `kptruncated`.
    """

    type: ClassVar[str] = ACCESS_EVENT_TYPE

    uri: str
    name: str
    truncated: bool = False

    def __post_init__(self) -> None:
        _CloudEvent.__post_init__(self)  # super() does not find its class behind slots
        if not self.uri or len(self.uri) > MAX_URI_LENGTH:
            raise ValueError(f"uri is empty or longer than {MAX_URI_LENGTH}")
        if not is_visible_ascii(self.uri):
            raise ValueError("uri is not percent-encoded")
        if defect := name_defect(self.name):
            raise ValueError(f"name is {defect}")

    @classmethod
    def of(cls, uri: str, *, name: str, source: str = "/", timestamp_ms: int | None = None) -> Self:
        """An event of a moment, else of now; a URI over the limit is cut and marked."""
        return cls(
            uri=uri[:MAX_URI_LENGTH],
            name=name,
            source=source,
            truncated=len(uri) > MAX_URI_LENGTH,
            timestamp_ms=now_ms() if timestamp_ms is None else timestamp_ms,
        )

    def body(self) -> bytes:
        return orjson.dumps({"uuid": self.uuid, "uri": self.uri, "name": self.name})

    def headers(self) -> list[Header]:
        headers = _CloudEvent.headers(self)
        if self.truncated:
            headers.append(("ce_kptruncated", b"true"))
        return headers


@dataclass(frozen=True, slots=True, kw_only=True)
class FullTextEvent(_CloudEvent):
    """One note that somebody wrote, unchanged. Raises ValueError when it breaks the contract."""

    type: ClassVar[str] = FULL_TEXT_EVENT_TYPE

    text: str

    def __post_init__(self) -> None:
        _CloudEvent.__post_init__(self)
        if defect := text_defect(self.text):
            raise ValueError(f"text is {defect}")

    def body(self) -> bytes:
        return orjson.dumps({"uuid": self.uuid, "text": self.text})


def name_defect(name: object) -> str | None:
    """Why something cannot be an event's name, in one word, or None."""
    return _defect(name, MAX_NAME_LENGTH)


def text_defect(text: object) -> str | None:
    """Why something cannot be an event's text, in one word, or None."""
    return _defect(text, MAX_TEXT_LENGTH)


def _defect(text: object, max_length: int) -> str | None:
    if not isinstance(text, str):
        return "not_text"
    if not text or text.isspace():
        return "empty"
    if len(text) > max_length:
        return "too_long"
    try:
        text.encode()
    except UnicodeEncodeError:  # a lone surrogate
        return "not_unicode"
    return None


def is_visible_ascii(text: str) -> bool:
    return text.isascii() and text.isprintable() and " " not in text


def uri_as_received(raw_path: bytes, query_string: bytes) -> str:
    """The request target without scheme, host and userinfo; neither decoded nor normalised.

    Servers hand on the absolute form (`GET http://user:password@host/x`) or not; both become `/x`.
    Raises ValueError when the target is none that HTTP knows, or has raw bytes to be encoded.
    """
    target = (raw_path + b"?" + query_string if query_string else raw_path).decode("ascii")
    if not is_visible_ascii(target):
        raise ValueError("control characters in the request target")
    if target.startswith("/") or target == "*":
        return target
    absolute = _ABSOLUTE_FORM.fullmatch(target)
    if absolute is None:
        raise ValueError("the request target is neither a path, an absolute URL nor *")
    path = absolute[1]
    return path if path.startswith("/") else f"/{path}"


def _is_version_4(uuid: UUID) -> bool:
    """By RFC 9562; the property `version` of a UUID takes three times as long."""
    return (uuid.int >> 76) & 0xF == 4 and (uuid.int >> 62) & 0x3 == 2


@lru_cache
def _same_of_all(kind: str, source: str) -> tuple[Header, Header, Header]:
    return (
        ("ce_specversion", b"1.0"),
        ("ce_source", source.encode()),
        ("ce_type", kind.encode()),
    )


def _rfc3339(timestamp_ms: int) -> bytes:
    seconds, milliseconds = divmod(timestamp_ms, 1_000)
    return b"%b.%03dZ" % (_rfc3339_seconds(seconds), milliseconds)


@lru_cache(maxsize=4)
def _rfc3339_seconds(seconds: int) -> bytes:
    return datetime.fromtimestamp(seconds, UTC).replace(tzinfo=None).isoformat().encode()
