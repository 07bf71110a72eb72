"""A failed run is posted to the configured webhook, and nothing secret leaks."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from threading import Thread
from typing import Any

import dagster as dg
import pytest

from kp_platform.orchestration.notifications import NotPosted, failure_sensor, post
from kp_platform.settings import Settings


class Webhook(HTTPServer):
    """A webhook that answers with the given statuses, then always with the last one."""

    def __init__(self, *statuses: int) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.statuses = list(statuses)
        self.bodies: list[dict[str, Any]] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/services/a-secret"


class _Handler(BaseHTTPRequestHandler):
    server: Webhook

    def do_POST(self) -> None:
        length = int(self.headers["Content-Length"])
        self.server.bodies.append(json.loads(self.rfile.read(length)))
        statuses = self.server.statuses
        self.send_response(statuses.pop(0) if len(statuses) > 1 else statuses[0])
        self.send_header("Location", "http://127.0.0.1:1/")
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, format: str, *arguments: object) -> None:
        """Log nothing."""


@contextmanager
def webhook(*statuses: int) -> Iterator[Webhook]:
    server = Webhook(*statuses)
    thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@dg.job
def failing() -> None:
    @dg.op
    def fail() -> None:
        raise RuntimeError("Elasticsearch does not answer")

    fail()


def tick_after_a_failure() -> tuple[str, Any]:
    """The id of a failed run, and the answer of the sensor."""
    with dg.DagsterInstance.ephemeral() as instance:
        result = failing.execute_in_process(instance=instance, raise_on_error=False)
        events = {each.event_type_value: each for each in result.all_events}
        context = dg.build_run_status_sensor_context(
            sensor_name="failed_runs",
            dagster_event=events["PIPELINE_FAILURE"],
            dagster_instance=instance,
            dagster_run=result.dagster_run,
            resources={"settings": Settings()},
        ).for_run_failure()
        return result.run_id, failure_sensor()(context)


def test_a_failed_run_is_posted_with_a_link_to_it(monkeypatch: pytest.MonkeyPatch) -> None:
    with webhook(200) as server:
        monkeypatch.setenv("KP_ALERT_WEBHOOK", server.url)
        run_id, _ = tick_after_a_failure()
    [body] = server.bodies
    assert (body["job"], body["run_id"]) == ("failing", run_id)
    assert body["url"] == f"http://127.0.0.1:18030/runs/{run_id}"
    assert body["error"] == "RuntimeError: Elasticsearch does not answer"
    assert body["text"].startswith("failing failed: RuntimeError: Elasticsearch")
    assert body["text"].endswith(body["url"])


def test_nothing_is_posted_by_default() -> None:
    _, answer = tick_after_a_failure()
    assert answer == dg.SkipReason("KP_ALERT_WEBHOOK is not set")


def test_a_webhook_that_fails_once_is_retried() -> None:
    with webhook(503, 200) as server:
        post(server.url, {"text": "hello"})
    assert len(server.bodies) == 2


@pytest.mark.parametrize("status", [500, 302])  # a redirect could lead anywhere
def test_a_webhook_that_refuses_is_an_error_without_its_url(status: int) -> None:
    with webhook(status) as server, pytest.raises(NotPosted, match=f"answers {status}") as error:
        post(server.url, {"text": "hello"})
    assert "a-secret" not in str(error.value)
    assert error.value.__suppress_context__ or error.value.__context__ is None


def test_an_unreachable_webhook_is_an_error_without_its_url() -> None:
    with pytest.raises(NotPosted, match="does not answer: ConnectionError"):
        post("http://127.0.0.1:1/services/a-secret", {"text": "hello"})
