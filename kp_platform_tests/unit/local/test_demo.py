"""The latencies that the demo reports."""

from datetime import UTC, datetime

from kp_platform.local.demo import Found, latencies


def found(created: float, indexed: float, searchable: float) -> Found:
    """A document with its times in seconds since the epoch."""
    times = {"@timestamp": created, "indexed_at": indexed}
    document = {name: datetime.fromtimestamp(at, UTC).isoformat() for name, at in times.items()}
    return Found(document, searchable)


def test_each_stage_has_its_percentiles_and_none_is_negative() -> None:
    sent = {"/usual": 100.0, "/early": 200.0}
    documents = {
        "/usual": found(100.5, 101.5, 101.75),
        # Kafka's timestamps are whole milliseconds, so one may be earlier than its request
        "/early": found(199.5, 202.5, 203.0),
    }
    assert latencies(sent, documents) == {
        "request -> event": {"p50": 0.0, "p95": 0.5},
        "event -> indexed": {"p50": 1.0, "p95": 3.0},
        "indexed -> searchable": {"p50": 0.25, "p95": 0.5},
        "total": {"p50": 1.75, "p95": 3.0},
    }
