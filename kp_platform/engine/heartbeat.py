"""Heartbeats of running work: a flow, the ranking, the KPIs.

Belongs here: sending heartbeats, and the age of the latest. Does not belong here: keeping two runs
apart, which positions do. A missing heartbeat only shows the sensor early that the process of a run
is gone; Dagster does not notice when the code server ended with it.
"""

import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime

import orjson

from kp_platform.engine.bulk import put
from kp_platform.engine.bulk import send as send_operations
from kp_platform.engine.offsets import assignment_text
from kp_platform.engine.ports import Documents
from web_emitter import contract

INDEX = contract.HEARTBEATS_INDEX
INTERVAL_SECONDS = 5.0
# Between a flow and the partitions of it that a run takes, e.g. `access_log:0-5`.
OF = contract.ASSIGNMENT_SEPARATOR

logger = logging.getLogger(__name__)


def work_name(flow_name: str, assignment: range) -> str:
    """The work of a run: its flow, and the assigned partitions unless the run consumes all."""
    return OF.join(filter(None, (flow_name, assignment_text(assignment))))


@contextmanager
def running(store: Documents, work: str, run_id: str) -> Iterator[None]:
    """Send a heartbeat of run `run_id` for `work` at once and every `INTERVAL_SECONDS`."""
    done = threading.Event()

    def send_until_done() -> None:
        while not done.is_set():
            try:
                send(store, work, run_id)
            except Exception as error:  # the run itself fails at its next request
                logger.warning("no heartbeat of %s: %s", work, error)
            done.wait(INTERVAL_SECONDS)

    thread = threading.Thread(target=send_until_done, name=f"heartbeat-{work}", daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join(INTERVAL_SECONDS)


def age_seconds(store: Documents, work: str, run_id: str) -> float | None:
    """The age of the latest heartbeat, by the local clock; None unless it is of `run_id`."""
    key = (INDEX, work)
    stored = store.get([key]).get(key)
    if stored is None or stored.source["run_id"] != run_id:
        return None
    sent_at = datetime.fromisoformat(stored.source["sent_at"])
    return (datetime.now(UTC) - sent_at).total_seconds()


def send(store: Documents, work: str, run_id: str) -> None:
    """Send one heartbeat. Raises what `bulk.send` raises."""
    store.ensure_index(INDEX)
    body = contract.HeartbeatDocument(run_id=run_id, sent_at=contract.iso_time(datetime.now(UTC)))
    send_operations(store, [put(INDEX, work, orjson.dumps(body))])
