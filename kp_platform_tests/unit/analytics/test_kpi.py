"""An hour's figures over a store in memory, and which hours are stale."""

import json
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from kp_platform.analytics.kpi import (
    Numbers,
    Percentile,
    StaleHour,
    compute_hour,
    consecutive_hours,
    hours_to_check,
    stale_hours,
)
from kp_platform.engine.bulk import create, delete
from kp_platform.engine.counting import HOUR, Window, iso
from kp_platform.flows.builtin import ACCESS_LOG
from kp_platform_tests.fakes import FakeElasticsearch

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)
NOW = NOON + 2 * HOUR


class Log(FakeElasticsearch):
    """A store with methods that fill it."""

    def accessed(
        self, name: str, uri: str, delay_ms: int | None = 5, state: str = "none", hour: int = 0
    ) -> str:
        self.requests += 1
        identity = f"id-{self.requests}"
        body: dict[str, Any] = {
            "@timestamp": iso(NOON + hour * HOUR),
            "name": name,
            "uri": uri,
            "indexed_at": iso(NOW - HOUR),
            "enrichment": {"state": state},
        }
        if delay_ms is not None:
            body["delay_ms"] = delay_ms
        self.bulk(create("log.index-2026.03.01", identity, json.dumps(body).encode()))
        return identity

    def dead_letter(
        self, event_timestamp: str, at: datetime = NOW, flow: str = "access_log"
    ) -> None:
        body = {"flow": flow, "event_timestamp": event_timestamp, "@timestamp": iso(at)}
        self.bulk(create("kp.dead", f"dead-{self.requests}", json.dumps(body).encode()))

    def kpi(self) -> list[dict[str, Any]]:
        """The stored documents, that of scope `all` first."""
        found = self.find("access.kpi", "scope", "all") + self.find("access.kpi", "scope", "name")
        return sorted((each.source for each in found), key=lambda each: each.get("name", ""))


@pytest.fixture
def log() -> Log:
    return Log()


def stale(log: Log, now: datetime = NOW, pause_seconds: float = 0) -> list[StaleHour]:
    log.refresh("log.index")
    log.refresh("kp.dead")
    return stale_hours(log, ACCESS_LOG, [NOON, NOON + HOUR], now, pause_seconds)


def test_an_hour_has_figures_of_all_names_and_of_each_name(log: Log) -> None:
    log.accessed("presto", "/a", 10, "complete")
    log.accessed("presto", "/a", 30, "complete")
    log.accessed("presto", "/b", 20, "none")
    log.accessed("", "/a", -1_500, "none")
    log.accessed("presto", "/c", 99, "complete", hour=1)
    log.dead_letter(iso(NOON))
    report = compute_hour(log, ACCESS_LOG, NOON, NOW)
    total, anonymous, presto = log.kpi()
    assert total == {
        "scope": "all",
        "hour": "2026-03-01T12:00:00.000Z",
        "computed_at": "2026-03-01T14:00:00.000Z",
        "accesses": 4,
        "distinct_names": 2,
        "distinct_uris": 2,
        "complete": 2,
        "share_complete": 0.5,
        "dead_letters": 1,
        "p95_delay_seconds": 0.03,
    }
    assert (presto["accesses"], presto["distinct_uris"], presto["complete"]) == (3, 2, 2)
    assert (presto["share_complete"], presto["p95_delay_seconds"]) == (2 / 3, 0.03)
    assert (anonymous["name"], anonymous["p95_delay_seconds"]) == ("", -1.5)
    assert "dead_letters" not in presto
    assert report.total == total


def test_an_hour_without_events_has_zeros(log: Log) -> None:
    compute_hour(log, ACCESS_LOG, NOON, NOW)
    [total] = log.kpi()
    numbers = ("accesses", "distinct_names", "distinct_uris", "complete", "dead_letters")
    assert [total[field] for field in numbers] == [0] * 5
    assert (total["share_complete"], total["p95_delay_seconds"]) == (0.0, None)


def test_a_document_without_a_delay_counts_for_the_other_figures(log: Log) -> None:
    log.accessed("presto", "/a", None)
    log.accessed("presto", "/a", 7)
    log.accessed("kafka", "/a", None)
    compute_hour(log, ACCESS_LOG, NOON, NOW)
    total, kafka, presto = log.kpi()
    assert [each["accesses"] for each in (total, kafka, presto)] == [3, 1, 2]
    assert [each["p95_delay_seconds"] for each in (total, kafka, presto)] == [0.007, None, 0.007]


@pytest.mark.parametrize(
    ("groups", "expected"),
    [
        ([(5, 1)], 5),
        ([(1, 19), (9, 1)], 1),  # 19 of 20 are 95 %
        ([(1, 18), (9, 2)], 9),
        ([(1, 94), (2, 1), (3, 5)], 2),
        ([(1, 95), (2, 5)], 1),
        ([(-7, 1), (0, 1)], 0),
    ],
)
def test_a_percentile_is_one_of_the_values(groups: list[tuple[int, int]], expected: int) -> None:
    percentile = Percentile(sum(times for _, times in groups))
    for value, times in groups:
        percentile.add(value, times)
    assert percentile.value == expected


@pytest.mark.parametrize(
    ("event_timestamp", "at", "flow", "counted"),
    [
        ("2026-03-01T12:00:00.000Z", NOW, "access_log", 1),  # first moment of the hour
        ("2026-03-01T12:59:59.999Z", NOW, "access_log", 1),  # last
        ("2026-03-01T13:00:00.000Z", NOON, "access_log", 0),  # its own timestamp is ignored
        ("", NOON, "access_log", 1),  # unless the message has none
        ("", NOW, "access_log", 0),
        ("2026-03-01T12:00:00.000Z", NOW, "full_text", 0),  # another flow
        ("+292278994-08-17T07:12:55.807Z", NOW, "access_log", 0),  # an invalid clock
    ],
)
def test_dead_letters_belong_to_the_hour_of_their_message(
    log: Log, event_timestamp: str, at: datetime, flow: str, counted: int
) -> None:
    log.dead_letter(event_timestamp, at, flow)
    assert compute_hour(log, ACCESS_LOG, NOON, NOW).total["dead_letters"] == counted


def test_a_name_without_events_in_the_hour_loses_its_document(log: Log) -> None:
    deleted = log.accessed("goes", "/")
    log.accessed("stays", "/")
    log.accessed("goes", "/", hour=1)
    compute_hour(log, ACCESS_LOG, NOON + HOUR, NOW)
    compute_hour(log, ACCESS_LOG, NOON, NOW)
    log.bulk(delete("log.index-2026.03.01", deleted))
    assert compute_hour(log, ACCESS_LOG, NOON, NOW).removed == 1
    found = [(each["hour"][11:13], each.get("name")) for each in log.kpi()]
    assert sorted(found, key=str) == [("12", "stays"), ("12", None), ("13", "goes"), ("13", None)]


def test_an_hour_is_stale_until_it_is_counted_and_when_its_numbers_change(log: Log) -> None:
    log.accessed("presto", "/")
    assert stale(log)[0] == StaleHour(NOON, Numbers(1, 0, 0), None)
    compute_hour(log, ACCESS_LOG, NOON, NOW)
    compute_hour(log, ACCESS_LOG, NOON + HOUR, NOW)
    assert stale(log) == []
    log.accessed("presto", "/", state="complete")
    assert stale(log) == [StaleHour(NOON, Numbers(2, 1, 0), Numbers(1, 0, 0))]
    compute_hour(log, ACCESS_LOG, NOON, NOW)
    log.dead_letter(iso(NOON + HOUR))
    assert stale(log) == [StaleHour(NOON + HOUR, Numbers(0, 0, 1), Numbers(0, 0, 0))]


def test_an_hour_is_not_stale_within_its_pause(log: Log) -> None:
    compute_hour(log, ACCESS_LOG, NOON, NOW)
    compute_hour(log, ACCESS_LOG, NOON + HOUR, NOW)
    log.accessed("presto", "/")
    assert stale(log, NOW + timedelta(seconds=299), pause_seconds=300) == []
    assert len(stale(log, NOW + timedelta(seconds=300), pause_seconds=300)) == 1


def test_a_run_killed_before_its_last_document_leaves_the_hour_stale(
    log: Log, monkeypatch: pytest.MonkeyPatch
) -> None:
    log.accessed("presto", "/")
    compute_hour(log, ACCESS_LOG, NOON, NOW)
    compute_hour(log, ACCESS_LOG, NOON + HOUR, NOW)
    log.accessed("kafka", "/")

    def interrupted(lines: bytes) -> Any:
        FakeElasticsearch.bulk(log, b"\n".join(lines.splitlines()[:2]))
        raise InterruptedError

    monkeypatch.setattr(log, "bulk", interrupted)
    with pytest.raises(InterruptedError):
        compute_hour(log, ACCESS_LOG, NOON, NOW)
    monkeypatch.undo()
    log.refresh("access.kpi")
    assert {each.get("name") for each in log.kpi()} == {None, "presto", "kafka"}
    assert [each.hour for each in stale(log)] == [NOON]


def test_hours_are_checked_for_a_week_after_their_last_document(log: Log) -> None:
    log.accessed("late", "/", hour=-2_000)
    log.accessed("presto", "/")
    log.refresh("log.index")
    both = [NOON - 2_000 * HOUR, NOON]
    assert hours_to_check(log, ACCESS_LOG, NOW) == both
    assert hours_to_check(log, ACCESS_LOG, NOW + timedelta(days=6)) == both
    assert hours_to_check(log, ACCESS_LOG, NOW + timedelta(days=7)) == []


def test_consecutive_hours_are_one_series() -> None:
    hours = [NOON + number * HOUR for number in (0, 1, 2, 3, 5, 9, 10)]
    assert consecutive_hours(reversed(hours), most_hours=3) == [
        (hours[0], hours[2]),
        (hours[3], hours[3]),
        (hours[4], hours[4]),
        (hours[5], hours[6]),
    ]
    assert consecutive_hours([], most_hours=3) == []


def test_a_window_validates_itself() -> None:
    with pytest.raises(ValueError, match="not a window"):
        Window(NOON, NOON)
    with pytest.raises(ValueError, match="not in UTC"):
        Window(NOON.replace(tzinfo=None), NOON)
