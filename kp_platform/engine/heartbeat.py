"""Whether the run that took some work (a flow, the ranking, the KPIs) is still at it: it says so
every few seconds.

Belongs here: the beat, and its age. Does not belong here: keeping two runs apart, which positions
do; a lease only tells the sensor soon that a run's process is gone, of which Dagster knows nothing
when the code server went with it.
"""

import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime

import orjson

from kp_platform.engine.store import DocumentStore, put
from kp_platform.engine.store import send as send_operations
from web_emitter import contract

INDEX = contract.HEARTBEATS_INDEX
INTERVAL_SECONDS = 5.0
# Between a flow and the partitions of it that a run takes, e.g. `access_log:0-5`.
OF = contract.ASSIGNMENT_SEPARATOR

logger = logging.getLogger(__name__)


@contextmanager
def running(store: DocumentStore, work: str, run_id: str) -> Iterator[None]:
    """Says at once, and every BEAT_SECONDS until the end, that the run `run_id` is at `work`."""
    done = threading.Event()

    def beat_on() -> None:
        while not done.is_set():
            try:
                send(store, work, run_id)
            except Exception as error:  # the slice will say what is wrong with the store
                logger.warning("no beat of %s: %s", work, error)
            done.wait(INTERVAL_SECONDS)

    thread = threading.Thread(target=beat_on, name=f"heartbeat-{work}", daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join(INTERVAL_SECONDS)


def age_seconds(store: DocumentStore, work: str, run_id: str) -> float | None:
    """Of `run_id`, by our clock; None when the latest beat is not of this run_id."""
    key = (INDEX, work)
    stored = store.get([key]).get(key)
    if stored is None or stored.source["run_id"] != run_id:
        return None
    sent_at = datetime.fromisoformat(stored.source["sent_at"])
    return (datetime.now(UTC) - sent_at).total_seconds()


def send(store: DocumentStore, work: str, run_id: str) -> None:
    """Say that `run_id` is at `work` now. Raises what `store.send` raises."""
    store.ensure_index(INDEX)
    body = contract.HeartbeatDocument(run_id=run_id, sent_at=contract.iso_time(datetime.now(UTC)))
    send_operations(store, [put(INDEX, work, orjson.dumps(body))])
