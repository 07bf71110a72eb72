"""The query of the analysis page in its URL."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from web_emitter.site.analysis.chart import EPOCH
from web_emitter.site.analysis.log_query import BadQuery, LogQuery, Period
from web_emitter.site.search import Cursor

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)

moments = st.integers(0, 10**13).map(lambda number: EPOCH + timedelta(milliseconds=number))
periods = st.one_of(
    st.builds(Period, last=st.sampled_from(["", "15m", "7d"])),
    st.builds(Period, start=moments),
    st.builds(lambda at: Period(start=at, end=at + timedelta(minutes=1)), moments),
)
cursors = st.builds(Cursor, *[st.integers(0, 2**63 - 1)] * 4)
queries = st.builds(
    LogQuery, words=st.text(), name=st.text(), uri=st.text(), period=periods, after=cursors
)


@given(queries)
def test_every_query_is_restored_from_its_url(query: LogQuery) -> None:
    assert LogQuery.of(query.parameters()) == query


@pytest.mark.parametrize(
    ("parameters", "error"),
    [
        ({"last": "1y"}, "not one of 15m, 1h, 24h, 7d"),
        ({"from": "yesterday"}, "From: 'yesterday' is not a time"),
        ({"to": "0001-01-01T00:00+14:00"}, "To: .* is not a time"),
        ({"to": "9999-12-31T23:59"}, "To: .* is not a time"),
        ({"from": "2026-01-02", "to": "2026-01-01"}, "From must be before To"),
        ({"after": "x"}, "incomplete or was changed"),
    ],
)
def test_invalid_parameters_are_reported(parameters: dict[str, str], error: str) -> None:
    with pytest.raises(BadQuery, match=error):
        LogQuery.of(parameters)


@given(st.dictionaries(st.sampled_from(["q", "last", "from", "to", "after", "before"]), st.text()))
def test_no_url_raises_another_error(parameters: dict[str, str]) -> None:
    try:
        query = LogQuery.of(parameters)
    except BadQuery:
        return
    query.as_elasticsearch()
    start, end = query.period.bounds(NOON)
    assert start < end


def test_times_are_utc_by_default() -> None:
    period = Period.of("", "2026-03-01T12:00", "2026-03-01T15:00+02:00")
    assert (period.start, period.end) == (NOON, NOON + timedelta(hours=1))


@pytest.mark.parametrize(
    ("period", "hours"),
    [
        (Period(), (-24, 0)),
        (Period(last="7d"), (-168, 0)),
        (Period(start=NOON - timedelta(hours=3)), (-3, 0)),
        (Period(end=NOON - timedelta(hours=3)), (-27, -3)),
    ],
)
def test_the_bounds_of_a_chart(period: Period, hours: tuple[int, int]) -> None:
    assert period.bounds(NOON) == tuple(NOON + timedelta(hours=each) for each in hours)


@pytest.mark.parametrize(
    ("period", "bounds"),
    [
        (Period(last="15m"), {"gte": "now-15m"}),
        (Period(start=NOON), {"gte": 1_772_366_400_000, "format": "epoch_millis"}),
        (Period(end=NOON), {"lt": 1_772_366_400_000, "format": "epoch_millis"}),
    ],
)
def test_a_period_becomes_a_range_query(period: Period, bounds: dict[str, Any]) -> None:
    assert period.as_elasticsearch() == {"range": {"@timestamp": bounds}}


def test_each_filter_has_a_link_that_removes_it() -> None:
    query = LogQuery(words="a b", name="k", uri="/x", period=Period(last="1h"))
    chips = [(chip.label, chip.value) for chip in query.chips()]
    assert chips == [
        ("Words", "a b"),
        ("Name", "k"),
        ("URI prefix", "/x"),
        ("Time", "last 1 hour"),
    ]
    links = [query.link_without(chip.field) for chip in query.chips()]
    assert links == [
        "/analysis?name=k&uri=%2Fx&last=1h",
        "/analysis?q=a+b&uri=%2Fx&last=1h",
        "/analysis?q=a+b&name=k&last=1h",
        "/analysis?q=a+b&name=k&uri=%2Fx",
    ]


def test_blank_words_are_not_a_filter() -> None:
    assert LogQuery(words=" \t").is_overview
    assert LogQuery(words=" ").chips() == []


def test_times_of_the_form_override_a_preset() -> None:
    period = LogQuery.of({"last": "1h", "from": "2026-03-01T12:00:00"}).period
    assert (period.last, period.start) == ("", datetime(2026, 3, 1, 12, tzinfo=UTC))
