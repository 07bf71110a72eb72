"""A real emitter process: shutdown, recovery of its spool, several workers."""

import os
import signal
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Event, Thread
from time import monotonic

import httpx
import pytest

from kp_platform_tests.unit.web_emitter.server import (
    EmitterProcess,
    MockBroker,
    spooled_events,
    uris,
)

Start = Callable[..., EmitterProcess]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Starts emitters that share a folder."""
    started: list[EmitterProcess] = []

    def start(**variables: str) -> EmitterProcess:
        started.append(EmitterProcess.start(tmp_path, **variables))
        return started[-1]

    yield start
    for emitter in started:
        emitter.kill()


@pytest.fixture
def broker() -> Iterator[MockBroker]:
    broker = MockBroker()
    yield broker
    broker.close()


@contextmanager
def load(emitter: EmitterProcess) -> Iterator[dict[str, float]]:
    """Sequential requests, each on its own connection; yields the time of each response."""
    answered: dict[str, float] = {}
    stop = Event()

    def visit() -> None:
        number = 0
        while not stop.is_set():
            number += 1
            try:
                emitter.get(f"/visit/{number}")
            except httpx.TransportError:
                continue
            answered[f"/visit/{number}"] = monotonic()

    visitor = Thread(target=visit)
    visitor.start()
    try:
        emitter.wait_until(lambda: len(answered) >= 20)
        yield answered
    finally:
        stop.set()
        visitor.join()


def balance(counts: dict[str, object]) -> tuple[object, int]:
    """Both sides of: accepted = acked + in_flight + spooled + dropped."""
    dropped = counts["dropped"]
    assert isinstance(dropped, dict)
    columns = [counts[name] for name in ("acked", "in_flight", "spooled")]
    return counts["accepted"], sum(map(int, map(str, columns))) + sum(dropped.values())


def test_sigterm_under_load_exits_with_0_and_every_answered_request_is_on_disk(
    start: Start, tmp_path: Path
) -> None:
    emitter = start()
    with load(emitter) as answered:
        started = monotonic()
        assert emitter.stop() == 0
        assert monotonic() - started < 15
    (counts,) = emitter.last_counts()
    accepted, accounted = balance(counts)
    assert accepted == accounted == counts["spooled"]
    stored = uris(spooled_events(tmp_path))
    assert len(stored) == len(set(stored)) == accepted
    assert set(answered) <= set(stored)


def test_sigterm_with_a_broker_leaves_nothing_on_disk(
    start: Start, tmp_path: Path, broker: MockBroker
) -> None:
    emitter = start(KP_KAFKA_BOOTSTRAP_SERVERS=broker.address, KP_EMITTER_FLUSH_SECONDS="10")
    with load(emitter) as answered:
        assert emitter.stop() == 0
    (counts,) = emitter.last_counts()
    assert counts["accepted"] == counts["acked"] >= len(answered)
    assert list(tmp_path.glob("emitter/spool/*/*")) == []
    sent = uris(broker.bodies("analyze.action", counts["acked"]))
    assert set(answered) <= set(sent)


def test_sigint_exits_with_0(start: Start) -> None:
    assert start().stop(signal.SIGINT) == 0


def test_kill_9_loses_only_what_was_accepted_within_the_bound(
    start: Start, tmp_path: Path, broker: MockBroker
) -> None:
    """The bound is 0.2 s; on a busy machine a write may wait longer for the CPU."""
    emitter = start()
    with load(emitter) as answered:
        emitter.wait_until(lambda: len(answered) >= 100)
        emitter.process.kill()
        emitter.process.wait(30)
        killed = monotonic()
    stored = set(uris(spooled_events(tmp_path)))
    assert stored
    lost = {uri: killed - at for uri, at in answered.items() if uri not in stored}
    assert max(lost.values(), default=0) < 0.2 + 1.0
    again = start(KP_KAFKA_BOOTSTRAP_SERVERS=broker.address)
    again.wait_until(lambda: again.events()["acked"] >= len(stored))
    counts = again.events()
    assert balance(counts)[0] == balance(counts)[1]
    assert counts["recovered"] == len(stored)
    assert stored <= set(uris(broker.bodies("analyze.action", counts["acked"])))
    assert again.stop() == 0


def _is_stored(folder: Path, expected: set[str]) -> bool:
    return expected <= set(uris(spooled_events(folder)))


def test_without_a_broker_an_event_is_on_disk_within_the_bound(
    start: Start, tmp_path: Path
) -> None:
    """The bound, plus the time that a busy machine needs for a write and a check."""
    emitter = start()
    emitter.get("/first")
    emitter.wait_until(lambda: _is_stored(tmp_path, {"/first"}))
    emitter.get("/measured")
    answered = monotonic()
    emitter.wait_until(lambda: _is_stored(tmp_path, {"/measured"}))
    assert monotonic() - answered < 0.2 + 2.0


def test_each_worker_has_its_own_spool_and_all_stop_with_one_signal(
    start: Start, tmp_path: Path
) -> None:
    emitter = start(KP_EMITTER_WORKERS="2")
    folders = tmp_path / "emitter" / "spool" / "analyze.action"
    emitter.wait_until(lambda: folders.is_dir() and len(list(folders.glob("[!.]*"))) == 2)
    for number in range(40):
        assert emitter.get(f"/{number}").status_code == 404
    assert emitter.stop() == 0
    counts = emitter.last_counts()
    assert sum(each["accepted"] for each in counts) == 40
    assert sum(each["spooled"] for each in counts) == 40
    assert len(set(uris(spooled_events(tmp_path)))) == 40


def test_a_worker_adopts_the_spool_of_a_killed_one(start: Start, tmp_path: Path) -> None:
    dead, other = start(), start()
    dead.get("/adopted")
    dead.wait_until(lambda: _is_stored(tmp_path, {"/adopted"}))
    os.kill(dead.process.pid, signal.SIGKILL)
    other.wait_until(lambda: other.events()["recovered"] == 1)
    assert other.stop() == 0
    assert "/adopted" in uris(spooled_events(tmp_path))


def test_a_broker_that_never_answers_delays_no_request(start: Start, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as unresponsive:
        emitter = start(KP_KAFKA_BOOTSTRAP_SERVERS=f"127.0.0.1:{unresponsive.getsockname()[1]}")
        for number in range(30):
            assert emitter.get(f"/{number}").status_code == 404
        emitter.wait_until(lambda: _is_stored(tmp_path, {f"/{number}" for number in range(30)}))
        assert emitter.stop() == 0


def test_with_reject_and_a_full_spool_a_request_is_a_503(start: Start) -> None:
    emitter = start(
        KP_EMITTER_OVERFLOW="reject",
        KP_EMITTER_QUEUE_MESSAGES="1",
        KP_EMITTER_SPOOL_MESSAGES="1",
        KP_EMITTER_SPOOL_BYTES="4096",
    )
    answers = [emitter.get("/x")]
    while answers[-1].status_code == 404 and len(answers) < 200:
        answers.append(emitter.get("/x"))
    assert answers[-1].status_code == 503
    assert answers[-1].headers["retry-after"] == "5"
    text = emitter.get("/metrics").text
    assert "kp_emitter_requests_rejected_total" in text
    assert emitter.get("/livez").status_code == 200
    assert emitter.stop() == 0
    (counts,) = emitter.last_counts()
    assert balance(counts)[0] == balance(counts)[1]
