"""What the demo says of the requests that it followed."""

from datetime import UTC, datetime

from kp_platform.local.demo import Seen, latencies


def seen(made: float, indexed: float, found: float) -> Seen:
    """A document, by its moments in seconds since the epoch."""
    times = {"@timestamp": made, "indexed_at": indexed}
    document = {name: datetime.fromtimestamp(at, UTC).isoformat() for name, at in times.items()}
    return Seen(document, found)


def test_each_stage_has_its_percentiles_and_none_is_negative() -> None:
    sent = {"/usual": 100.0, "/early": 200.0}
    found = {
        "/usual": seen(100.5, 101.5, 101.75),
        # Kafka's timestamps are whole milliseconds, so one may lie before its request
        "/early": seen(199.5, 202.5, 203.0),
    }
    assert latencies(sent, found) == {
        "request -> event": {"p50": 0.0, "p95": 0.5},
        "event -> indexed": {"p50": 1.0, "p95": 3.0},
        "indexed -> searchable": {"p50": 0.25, "p95": 0.5},
        "total": {"p50": 1.75, "p95": 3.0},
    }
