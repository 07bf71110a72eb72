"""Segments on a real disk: records are read back, damage after a crash is counted."""

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kp_platform_tests.unit.web_emitter.fakes import MortalSpool
from web_emitter.emitter.spool import ACKED, SEGMENT_BYTES, WAITING, Location, Record, Spool

ROOM = 1 << 30


def record(number: int, size: int = 2) -> Record:
    return Record(1_000 + number, b"%d" % number + b"x" * size, [("ce_id", b"%d" % number)])


def opened(folder: Path, max_bytes: int = ROOM) -> MortalSpool:
    spool = MortalSpool(folder, max_bytes)
    spool.open()
    return spool


def waiting(spool: Spool, records: list[Record]) -> list[Location]:
    """Appended and returned to the spool."""
    locations = spool.append(records)
    for location in locations:
        spool.settle(location, WAITING)
    return locations


def adopted(spool: Spool, limit: int) -> int:
    return sum(spool.adopt(limit))


def files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


def taken(spool: Spool, limit: int = 1_000) -> list[Record | None]:
    return [record for _, record in spool.take(limit)]


@given(
    st.integers(0, 2**53),
    st.binary(),
    st.lists(st.tuples(st.text(st.characters(codec="utf-8")), st.binary())),
)
def test_a_record_is_decoded_as_it_was_encoded(
    timestamp_ms: int, body: bytes, headers: list[tuple[str, str | bytes | None]]
) -> None:
    written = Record(timestamp_ms, body, headers)
    assert Record.decoded(written.encoded()[8:]) == written


def test_waiting_records_are_taken_once_oldest_first(tmp_path: Path) -> None:
    spool = opened(tmp_path)
    waiting(spool, [record(number) for number in range(5)])
    assert taken(spool, 2) == [record(0), record(1)]
    assert taken(spool) == [record(2), record(3), record(4)]
    assert taken(spool) == []
    assert spool.sent == 5


def test_sent_records_are_not_taken(tmp_path: Path) -> None:
    spool = opened(tmp_path)
    first, _ = spool.append([record(0), record(1)])
    assert taken(spool) == []
    spool.settle(first, WAITING)
    assert taken(spool) == [record(0)]


def test_a_segment_is_deleted_when_all_of_its_records_are_acknowledged(tmp_path: Path) -> None:
    spool = opened(tmp_path)
    first, second = spool.append([record(0), record(1)])
    spool.settle(first, ACKED)
    assert [path.suffix for path in files(tmp_path)] == [".segment", ""]
    spool.settle(second, ACKED)
    assert [path.name for path in files(tmp_path)] == ["lock"]
    assert spool.status() == (0, None, 0)
    assert len(spool.append([record(2)])) == 1


def test_a_full_segment_is_followed_by_another(tmp_path: Path) -> None:
    spool = opened(tmp_path)
    for number in range(4):
        waiting(spool, [record(number, SEGMENT_BYTES // 3)])
    assert len(files(tmp_path)) == 3  # and the lock
    assert [each and each.timestamp_ms for each in taken(spool)] == [1_000, 1_001, 1_002, 1_003]


def test_a_full_spool_stores_only_the_first_records(tmp_path: Path) -> None:
    size = len(record(0).encoded())
    spool = opened(tmp_path, max_bytes=2 * size)
    assert len(spool.append([record(0), record(1), record(2)])) == 2
    assert spool.append([record(3)]) == []
    assert spool.size == sum(path.stat().st_size for path in files(tmp_path)) == 2 * size


def test_the_records_of_a_dead_worker_are_adopted_by_one_worker(tmp_path: Path) -> None:
    dead = opened(tmp_path)
    waiting(dead, [record(0)])
    first, second = opened(tmp_path), opened(tmp_path)
    assert (adopted(first, 9), adopted(second, 9)) == (0, 0)  # it is alive
    dead.die()
    assert (adopted(first, 9), adopted(second, 9)) == (1, 0)
    assert taken(first) == [record(0)]
    assert taken(second) == []
    assert len(list(tmp_path.iterdir())) == 2  # the folder of the dead worker is removed


def test_adopted_records_are_older_and_taken_first(tmp_path: Path) -> None:
    dead = opened(tmp_path)
    waiting(dead, [record(0)])
    spool = opened(tmp_path)
    waiting(spool, [record(1)])
    dead.die()
    assert adopted(spool, 9) == 1
    assert taken(spool) == [record(0), record(1)]


def test_segments_are_adopted_in_batches(tmp_path: Path) -> None:
    dead = opened(tmp_path)
    for number in range(5):
        waiting(dead, [record(number, SEGMENT_BYTES)])
    dead.die()
    spool = opened(tmp_path)
    assert [adopted(spool, 2), adopted(spool, 2), adopted(spool, 2), adopted(spool, 2)] == [
        2,
        2,
        1,
        0,
    ]
    assert len(list(tmp_path.iterdir())) == 1


@given(st.data())
def test_a_torn_tail_is_ignored_and_counted(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    folder = tmp_path_factory.mktemp("spool")
    dead = opened(folder)
    dead.append([record(number) for number in range(3)])
    dead.die()
    (segment, _) = files(folder)
    content = segment.read_bytes()
    size = len(record(0).encoded())
    cut = data.draw(st.integers(0, len(content)), label="cut at")
    garbage = data.draw(st.binary(max_size=20), label="then")
    segment.write_bytes(content[:cut] + garbage)
    spool = opened(folder)
    whole = cut // size
    if whole < 3 and (content[:cut] + garbage).startswith(content[: (whole + 1) * size]):
        whole += 1  # the garbage equals the missing bytes
    assert adopted(spool, 9) == whole
    assert taken(spool) == [record(number) for number in range(whole)]
    assert spool.status().damaged_bytes == cut + len(garbage) - whole * size
    spool.die()


def test_a_damaged_record_is_skipped_and_counted(tmp_path: Path) -> None:
    dead = opened(tmp_path)
    dead.append([record(number) for number in range(3)])
    dead.die()
    (segment, _) = files(tmp_path)
    content = bytearray(segment.read_bytes())
    content[len(record(0).encoded()) + 12] ^= 1
    segment.write_bytes(content)
    spool = opened(tmp_path)
    assert adopted(spool, 9) == 2
    assert taken(spool) == [record(0), record(2)]
    assert spool.status().damaged_bytes == len(record(1).encoded())


def test_an_unreadable_record_is_returned_as_none(tmp_path: Path) -> None:
    spool = opened(tmp_path)
    waiting(spool, [record(0), record(1)])
    (segment, _) = files(tmp_path)
    os.truncate(segment, len(record(0).encoded()) + 9)
    assert taken(spool) == [record(0), None]


def test_a_deleted_folder_is_created_again(tmp_path: Path) -> None:
    spool = opened(tmp_path)
    waiting(spool, [record(0)])
    for path in files(tmp_path):
        path.unlink()
    (folder,) = tmp_path.iterdir()
    folder.rmdir()
    with pytest.raises(FileNotFoundError):
        spool.append([record(1, SEGMENT_BYTES)])
    spool.open()
    waiting(spool, [record(2)])
    assert taken(spool) == [None, record(2)]


def test_a_failed_batch_is_not_stored_and_the_next_one_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spool = opened(tmp_path)
    waiting(spool, [record(0)])
    with monkeypatch.context() as broken:
        broken.setattr(os, "write", lambda descriptor, data: len(data) // 2)
        with pytest.raises(OSError, match="was written partially"):
            spool.append([record(1)])
    waiting(spool, [record(2)])
    assert taken(spool) == [record(0), record(2)]
    spool.die()
    assert adopted(opened(tmp_path), 9) == 2


def test_closing_leaves_only_unacknowledged_records(tmp_path: Path) -> None:
    spool = opened(tmp_path)
    spool.close()
    assert list(tmp_path.iterdir()) == []
    spool = opened(tmp_path)
    spool.append([record(0)])
    spool.close()
    assert adopted(opened(tmp_path), 9) == 1


def test_other_files_are_left_unchanged(tmp_path: Path) -> None:
    (tmp_path / "README").write_text("not a spool")
    (tmp_path / ".unfinished").mkdir()
    assert adopted(opened(tmp_path), 9) == 0
    assert (tmp_path / "README").exists()


def test_adopted_records_count_when_the_folder_cannot_be_removed(
    tmp_path: Path,
) -> None:
    dead = opened(tmp_path)
    dead.append([record(0), record(1)])
    dead.die()
    (segment, _) = files(tmp_path)
    (segment.parent / "core").touch()
    spool = opened(tmp_path)
    found = spool.adopt(9)
    assert next(found) == 2
    with pytest.raises(OSError, match="not empty"):
        next(found)
    assert taken(spool) == [record(0), record(1)]


def test_other_users_cannot_read_the_spool(tmp_path: Path) -> None:
    spool = opened(tmp_path / "below")
    spool.append([record(0)])
    assert all(path.stat().st_mode & 0o077 == 0 for path in (tmp_path / "below").rglob("*"))
