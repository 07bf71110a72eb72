"""Bisection: which slices are loaded, and which messages are rejected."""

from dataclasses import dataclass, field

import pytest

from kp_platform.engine import bisection
from kp_platform.engine.bisection import MOST_FAILURES
from kp_platform.engine.errors import QueryTooLarge, SuspectMessage, UndecodableMessage
from kp_platform.engine.offsets import OffsetRange, Slice
from kp_platform.engine.reports import SliceReport


@dataclass
class Loader:
    """Loads slices of at most `most` offsets without those in `undecodable` or `suspect`."""

    undecodable: set[int] = field(default_factory=set)
    suspect: set[int] = field(default_factory=set)
    most: int = 1_000_000
    loaded: list[str] = field(default_factory=list)
    queries: int = 0

    def load(self, slice_: Slice) -> SliceReport:
        self.queries += 1
        [one] = slice_.ranges
        if len(slice_) > self.most:
            raise QueryTooLarge("memory")
        for offsets, error in (
            (self.undecodable, UndecodableMessage),
            (self.suspect, SuspectMessage),
        ):
            if any(one.start <= offset < one.end for offset in offsets):
                raise error("failed")
        self.loaded.append(str(slice_))
        return SliceReport(asked=slice_.ranges, rows=len(slice_), slices=1)


def slice_of(start: int, end: int) -> Slice:
    return Slice((OffsetRange(0, start, end),))


def test_a_slice_that_succeeds_is_loaded_by_one_query() -> None:
    loader = Loader()
    report = bisection.load(loader, slice_of(0, 100))
    assert (loader.queries, report.rows, report.slices) == (1, 100, 1)


def test_parts_are_loaded_in_order_and_reported_as_one_slice() -> None:
    loader = Loader(most=30)
    report = bisection.load(loader, slice_of(0, 100))
    assert loader.loaded == ["0:[0,25)", "0:[25,50)", "0:[50,75)", "0:[75,100)"]
    assert (report.asked, report.rows, report.slices) == ((OffsetRange(0, 0, 100),), 100, 1)


@pytest.mark.parametrize("loader", [Loader(undecodable={7, 42}), Loader(suspect={7, 42})])
def test_a_message_that_fails_its_query_is_rejected_and_all_others_are_loaded(
    loader: Loader,
) -> None:
    report = bisection.load(loader, slice_of(0, 64))
    assert [(each.offset, each.reason) for each in report.outcome.rejected] == [
        (7, "unreadable"),
        (42, "unreadable"),
    ]
    assert report.rows == 64


def test_a_single_message_that_is_too_large_is_an_error() -> None:
    with pytest.raises(QueryTooLarge):
        bisection.load(Loader(most=0), slice_of(0, 8))


def test_a_single_undecodable_message_is_rejected_without_a_readable_one() -> None:
    report = bisection.load(Loader(undecodable={3}), slice_of(3, 4))
    assert [each.offset for each in report.outcome.rejected] == [3]


@pytest.mark.parametrize("count", [1, 8, 4_096])
def test_suspect_messages_without_a_readable_one_are_an_error(count: int) -> None:
    loader = Loader(suspect=set(range(count)))
    with pytest.raises(SuspectMessage):
        bisection.load(loader, slice_of(0, count))
    assert loader.queries <= MOST_FAILURES
