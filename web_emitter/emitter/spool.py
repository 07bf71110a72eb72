"""Events on disk while Kafka has not acknowledged them.

Belongs here: the encoding of a record, segments, recovery after a crash, adopting the folder of a
dead worker. Does not belong here: which events are written, produced or dropped (`ledger.py`,
`producer.py`).

Each worker has its own subfolder with append-only segments, and holds the file `lock` in it by
flock as long as it runs. A record is the length and the CRC32 of a payload (big-endian, four bytes
each), then the payload. Acknowledgements are not written: a segment is deleted when all of its
records are acknowledged. After a crash the remaining segments are produced again; the indexer makes
one document of duplicates. One thread owns a Spool.
"""

import fcntl
import os
import struct
import time
import zlib
from array import array
from bisect import insort
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple
from uuid import uuid4

import orjson

from web_emitter.contract import Header

SEGMENT_BYTES = 1 << 20
WAITING, SENT, ACKED = range(3)
"""States of a record: to be produced, in librdkafka's queue or in memory, delivered."""

_FRAME = struct.Struct(">II")
_SUFFIX = ".segment"
_LOCK = "lock"
_UNFINISHED = "."  # prefix of a folder name that other workers ignore


class Record(NamedTuple):
    """A message as it is produced to Kafka."""

    timestamp_ms: int
    body: bytes
    headers: list[Header]

    def encoded(self) -> bytes:
        """Framed JSON in which each byte of body and headers is one character."""
        headers = [(key, _text(value)) for key, value in self.headers]
        payload = orjson.dumps((self.timestamp_ms, headers, self.body.decode("latin-1")))
        return _FRAME.pack(len(payload), zlib.crc32(payload)) + payload

    @classmethod
    def decoded(cls, payload: bytes) -> "Record":
        timestamp_ms, headers, body = orjson.loads(payload)
        return cls(
            timestamp_ms, body.encode("latin-1"), [(key, _value(each)) for key, each in headers]
        )


def _text(value: str | bytes | None) -> str | None:
    if isinstance(value, str):
        value = value.encode()
    return value.decode("latin-1") if value else ""


def _value(text: str) -> bytes:
    return text.encode("latin-1")


class Segment:
    """One file: the offset and the state of each record."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.offsets = array("Q")
        self.states = bytearray()
        self.size = 0
        self.unacked = 0

    def __lt__(self, other: "Segment") -> bool:
        return self.path.name < other.path.name

    @property
    def created_at(self) -> float:
        """In seconds since 1970 UTC."""
        return int(self.path.name.partition("-")[0]) / 1e9

    def add(self, offset: int, state: int) -> int:
        self.offsets.append(offset)
        self.states.append(state)
        self.unacked += 1
        return len(self.offsets) - 1


class Location(NamedTuple):
    """The segment of a record and its number there."""

    segment: Segment
    number: int


class Status(NamedTuple):
    """The size of a spool in bytes and the time of its oldest segment (seconds since 1970 UTC).
    `damaged_bytes` were found after crashes and belong to no record."""

    size: int = 0
    since: float | None = None
    damaged_bytes: int = 0


class Spool:
    """The segments of one worker below `folder`, at most `max_bytes` in all. Methods that access
    the disk raise OSError when it is full, missing or not writable."""

    def __init__(self, folder: Path, max_bytes: int) -> None:
        self._root = folder
        self._max_bytes = max_bytes
        self._name = uuid4().hex
        self._folder = folder / self._name
        self._lock: int | None = None
        self._segments: list[Segment] = []
        self._open: Segment | None = None
        self._descriptor = -1
        self._damaged_bytes = 0
        self.sent = 0

    def open(self) -> None:
        """Create this worker's folder, unless it exists; it is locked before it becomes visible."""
        if self._lock is not None and self._folder.is_dir():
            return
        self._seal()
        self._unlock()
        unfinished = self._root / f"{_UNFINISHED}{self._name}"
        unfinished.mkdir(mode=0o700, parents=True, exist_ok=True)
        lock = _locked(unfinished / _LOCK)
        if lock is None:
            raise BlockingIOError(f"{unfinished} is locked by another process")
        try:
            unfinished.rename(self._folder)
            _sync_folder(self._root)
        except OSError:
            os.close(lock)
            raise
        self._lock = lock

    def adopt(self, limit: int) -> Iterator[int]:
        """Adopt at most `limit` segments of dead workers; yields the number of events of each."""
        for folder in self._root.iterdir():
            if folder != self._folder and not folder.name.startswith(_UNFINISHED):
                for events in self._adopt(folder, limit):
                    limit -= 1
                    yield events

    def append(self, records: Sequence[Record]) -> list[Location]:
        """Write the first records, as many as there is room for. They are on disk, in state SENT,
        when this returns; if it raises OSError none is."""
        room = self._max_bytes - self.size
        encoded: list[bytes] = []
        for record in records:
            data = record.encoded()
            if (room := room - len(data)) < 0:
                break
            encoded.append(data)
        return self._write(encoded) if encoded else []

    def take(self, limit: int) -> list[tuple[Location, Record | None]]:
        """The oldest WAITING records, which become SENT; None for a record that is unreadable."""
        taken: list[tuple[Location, Record | None]] = []
        for segment in self._segments:
            if len(taken) >= limit:
                break
            index = segment.states.find(WAITING)
            data = _content(segment.path) if index >= 0 else b""
            while index >= 0 and len(taken) < limit:
                segment.states[index] = SENT
                taken.append((Location(segment, index), _read(data, segment.offsets[index])))
                index = segment.states.find(WAITING, index)
        self.sent += len(taken)
        return taken

    def settle(self, location: Location, state: int) -> None:
        """Set the state of a SENT record to ACKED or back to WAITING."""
        segment, number = location
        segment.states[number] = state
        self.sent -= 1
        if state == ACKED:
            segment.unacked -= 1
            if not segment.unacked:
                self._remove(segment)

    @property
    def size(self) -> int:
        """In bytes."""
        return sum(segment.size for segment in self._segments)

    def status(self) -> Status:
        since = self._segments[0].created_at if self._segments else None
        return Status(self.size, since, self._damaged_bytes)

    def close(self) -> None:
        """Release the folder for adoption by another worker; remove it if it is empty."""
        self._seal()
        if self._lock is not None and not self._segments:
            _remove_folder(self._folder)
        self._unlock()

    def _unlock(self) -> None:
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def _adopt(self, folder: Path, limit: int) -> Iterator[int]:
        try:
            lock = _locked(folder / _LOCK)
        except (FileNotFoundError, NotADirectoryError):
            return  # another worker has adopted it, or it is no spool
        if lock is None:
            return
        try:
            segments = sorted(folder.glob(f"*{_SUFFIX}"))
            for segment in segments[:limit]:
                yield self._adopt_segment(segment)
            if len(segments) <= limit:
                _remove_folder(folder)
        finally:
            os.close(lock)

    def _adopt_segment(self, path: Path) -> int:
        segment = Segment(path.rename(self._folder / path.name))
        data = segment.path.read_bytes()
        good = 0
        for offset, length in _records(data):
            segment.add(offset, WAITING)
            good += length
        self._damaged_bytes += len(data) - good
        if not segment.unacked:
            segment.path.unlink()
            return 0
        segment.size = len(data)
        insort(self._segments, segment)
        return segment.unacked

    def _write(self, encoded: list[bytes]) -> list[Location]:
        data = b"".join(encoded)
        segment = self._room_for(len(data))
        try:
            if os.write(self._descriptor, data) < len(data):
                raise OSError(f"{segment.path} was written partially")
            os.fdatasync(self._descriptor)
        except OSError:
            self._undo(segment)
            raise
        locations = []
        for each in encoded:
            locations.append(Location(segment, segment.add(segment.size, SENT)))
            segment.size += len(each)
        self.sent += len(locations)
        return locations

    def _room_for(self, size: int) -> Segment:
        if self._open is not None and self._open.size + size > SEGMENT_BYTES:
            self._seal()
        if self._open is None:
            path = self._folder / f"{time.time_ns():020d}-{self._name}{_SUFFIX}"
            flags = os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_APPEND
            self._descriptor = os.open(path, flags, 0o600)
            self._open = Segment(path)
            self._segments.append(self._open)
            _sync_folder(self._folder)
        return self._open

    def _undo(self, segment: Segment) -> None:
        """Remove a partial write and seal the segment, which is not written again."""
        try:
            os.ftruncate(self._descriptor, segment.size)
        finally:
            self._seal()
            if not segment.unacked:
                self._remove(segment)

    def _seal(self) -> None:
        if self._open is not None:
            os.close(self._descriptor)
            self._open = None

    def _remove(self, segment: Segment) -> None:
        if segment is self._open:
            self._seal()
        self._segments.remove(segment)
        segment.path.unlink(missing_ok=True)


def _locked(path: Path) -> int | None:
    """The descriptor of a locked file, or None while another process holds the lock."""
    descriptor = os.open(path, os.O_CREAT | os.O_RDWR, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        return None
    return descriptor


def _records(data: bytes) -> Iterator[tuple[int, int]]:
    """Offset and length of each valid record. A record with a wrong CRC is skipped; a length beyond
    the end of the file, as a crash leaves it, ends the iteration."""
    offset = 0
    while offset + _FRAME.size <= len(data):
        length, checksum = _FRAME.unpack_from(data, offset)
        end = offset + _FRAME.size + length
        if end > len(data):
            return
        if length and zlib.crc32(data[offset + _FRAME.size : end]) == checksum:
            yield offset, end - offset
        offset = end


def _content(path: Path) -> bytes:
    """The bytes of a segment; empty when it cannot be read."""
    try:
        return path.read_bytes()
    except OSError:
        return b""


def _read(data: bytes, offset: int) -> Record | None:
    try:
        length, checksum = _FRAME.unpack_from(data, offset)
    except struct.error:
        return None
    begin = offset + _FRAME.size
    payload = data[begin : begin + length]
    return Record.decoded(payload) if zlib.crc32(payload) == checksum else None


def _remove_folder(folder: Path) -> None:
    (folder / _LOCK).unlink(missing_ok=True)
    folder.rmdir()


def _sync_folder(folder: Path) -> None:
    """The name of a file is on disk only after its folder is synced."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
