"""The events that are published to Kafka, as values; consumers may use any language.

Belongs here: events, their validation, their bytes. Does not belong here: reading a request
(`middleware.py`), naming a visitor (`identity.py`), producing to Kafka (`producer.py`).

The body has exactly the fields of `presto_etc/kafka/*.json`. Everything else is a CloudEvents
attribute in a Kafka header (`contract.cloudevents_headers`).
"""

import re
import time
from dataclasses import dataclass, field
from typing import ClassVar, Protocol, Self
from uuid import UUID, uuid4

import orjson

from web_emitter.contract import Header, cloudevents_headers

# Characters. Elasticsearch rejects a keyword over 32,766 bytes; servers answer 414 well below.
MAX_URI_LENGTH = 8_192
# Characters, the width of the column that names are joined with: testing.tests.test_name.
MAX_NAME_LENGTH = 85

# Characters; a line break from a browser (CR LF) counts as two. At most 80 kB as UTF-8.
MAX_TEXT_LENGTH = 20_000

ACCESS_EVENT_TYPE = "kp.access.v1"
FULL_TEXT_EVENT_TYPE = "kp.fulltext.v1"

_ABSOLUTE_FORM = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://[^/?]*(.*)")


class Event(Protocol):
    """What a producer accepts. `timestamp_ms` is the time of the event, in ms since 1970 UTC."""

    @property
    def timestamp_ms(self) -> int: ...

    def body(self) -> bytes: ...

    def headers(self) -> list[Header]: ...


def now_ms() -> int:
    """Milliseconds since 1970 UTC."""
    return time.time_ns() // 1_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class _CloudEvent:
    """The attributes of every event, which are its headers. Raises ValueError when invalid."""

    type: ClassVar[str]

    source: str = "/"
    uuid: UUID = field(default_factory=uuid4)
    timestamp_ms: int = field(default_factory=now_ms)

    def __post_init__(self) -> None:
        if not _is_version_4(self.uuid):
            raise ValueError("uuid is not a version 4 UUID")

    def headers(self) -> list[Header]:
        event_id = orjson.dumps(self.uuid)[1:-1]
        return cloudevents_headers(event_id, self.source, self.type, self.timestamp_ms)


@dataclass(frozen=True, slots=True, kw_only=True)
class AccessEvent(_CloudEvent):
    """One access to one URL. `uri` is as the server received it: percent-encoded, never decoded.

    Raises ValueError when a field violates the contract. `truncated` means that the URI was longer
    than MAX_URI_LENGTH and was cut there; it becomes the extension attribute `kptruncated`.
    """

    type: ClassVar[str] = ACCESS_EVENT_TYPE

    uri: str
    name: str
    truncated: bool = False

    def __post_init__(self) -> None:
        _CloudEvent.__post_init__(self)  # super() fails in a dataclass with slots
        if not self.uri or len(self.uri) > MAX_URI_LENGTH:
            raise ValueError(f"uri is empty or longer than {MAX_URI_LENGTH}")
        if not is_visible_ascii(self.uri):
            raise ValueError("uri is not percent-encoded")
        if defect := name_defect(self.name):
            raise ValueError(f"name is {defect}")

    @classmethod
    def of(cls, uri: str, *, name: str, source: str = "/", timestamp_ms: int | None = None) -> Self:
        """An event at `timestamp_ms`, by default now; a URI over the limit is truncated."""
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
    """One note, unchanged. Raises ValueError when it violates the contract."""

    type: ClassVar[str] = FULL_TEXT_EVENT_TYPE

    text: str

    def __post_init__(self) -> None:
        _CloudEvent.__post_init__(self)
        if defect := text_defect(self.text):
            raise ValueError(f"text is {defect}")

    def body(self) -> bytes:
        return orjson.dumps({"uuid": self.uuid, "text": self.text})


def name_defect(name: object) -> str | None:
    """Why a value cannot be the name of an event, in one word; None if it can."""
    return _defect(name, MAX_NAME_LENGTH)


def text_defect(text: object) -> str | None:
    """Why a value cannot be the text of an event, in one word; None if it can."""
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

    Some servers pass on the absolute form (`GET http://user:password@host/x`); it becomes `/x`.
    Raises ValueError when HTTP defines no such target, or when it has bytes that must be encoded.
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
    """As RFC 9562 defines it; the property `version` of a UUID takes three times as long."""
    return (uuid.int >> 76) & 0xF == 4 and (uuid.int >> 62) & 0x3 == 2
