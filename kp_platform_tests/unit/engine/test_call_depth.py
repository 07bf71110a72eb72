"""The number of frames from the body of the Dagster asset to the calls of the adapters."""

import contextlib
import json
import sys
from collections.abc import Iterator, Sequence
from types import FrameType

import dagster as dg
import pytest

from kp_platform.engine.ports import ItemResult
from kp_platform.engine.reference_change import ReferenceChange
from kp_platform.flows.builtin import ACCESS_LOG, REFERENCE_CHANGES
from kp_platform.flows.model import AnyFlow
from kp_platform.orchestration.flow_assets import flow_asset
from kp_platform.settings import Settings
from kp_platform_tests.fakes import FakeAnswer, FakeElasticsearch, FakeTrino
from kp_platform_tests.unit.engine.harness import Harness

# The adapter's own method is the last of them.
MOST_FRAMES = 11


def frames(frame: FrameType | None) -> list[str]:
    """The functions of kp_platform on a stack, the innermost first."""
    found = []
    while frame is not None:
        if str(frame.f_globals.get("__name__", "")).startswith("kp_platform."):
            found.append(frame.f_code.co_qualname)
        frame = frame.f_back
    return found


class Stacks:
    """The deepest stack of each kind of call. The adapters are fakes, outside of kp_platform, so
    each gets a frame."""

    def __init__(self) -> None:
        self.query: list[str] = []
        self.bulk: list[str] = []

    def record_query(self) -> None:
        self.query = max(self.query, ["query", *frames(sys._getframe(2))], key=len)

    def record_bulk(self) -> None:
        """A thread of a pool has a stack of its own: those frames of the query's stack are added
        that started the pool."""
        own = frames(sys._getframe(2))
        if own and "Indexer.run" not in own:
            starts = {"DocumentLoader.load", "Refresher._round"}
            outer = next(at for at, name in enumerate(self.query) if name in starts)
            self.bulk = max(self.bulk, ["bulk", *own, *self.query[outer:]], key=len)


class RecordingTrino(FakeTrino):
    stacks: Stacks

    @contextlib.contextmanager
    def query(self, sql: str, parameters: Sequence[object]) -> Iterator[FakeAnswer]:
        self.stacks.record_query()
        with super().query(sql, parameters) as answer:
            yield answer


class RecordingElasticsearch(FakeElasticsearch):
    stacks: Stacks

    def bulk_all(self, lines: bytes) -> bool:
        self.stacks.record_bulk()
        return super().bulk_all(lines)

    def bulk(self, lines: bytes) -> Sequence[ItemResult]:
        if b'"_index":"log.index' in lines:
            self.stacks.record_bulk()
        return super().bulk(lines)


@pytest.fixture
def harness() -> Harness:
    return Harness()


def stacks_of(harness: Harness, flow: AnyFlow) -> Stacks:
    """The stacks of a materialization of the flow's asset."""
    trino = RecordingTrino(harness.kafka, harness.mysql, harness.redis)
    store = RecordingElasticsearch()
    store.documents, store.searchable = harness.store.documents, harness.store.searchable
    trino.stacks = store.stacks = stacks = Stacks()
    resources = {
        "settings": Settings(_env_file=None),
        "kafka": harness.kafka,
        "trino": trino,
        "elasticsearch": store,
    }
    config = {"ops": {flow.asset: {"config": {"follow_idle_seconds": 0}}}}
    assert dg.materialize([flow_asset(flow)], resources=resources, run_config=config).success
    return stacks


def test_from_the_asset_to_the_servers_of_a_flow_there_are_few_frames(harness: Harness) -> None:
    harness.access(20)
    stacks = stacks_of(harness, ACCESS_LOG)
    assert len(harness.stored("log.index")) == 20
    assert stacks.bulk[:3] == ["bulk", "send_all", "index_documents"]
    assert stacks.query[:2] == ["query", "LookupPushdown.query"]
    assert len(stacks.bulk) < MOST_FRAMES  # one is left for the adapter, before its client
    assert len(stacks.query) < MOST_FRAMES


def test_a_document_with_a_result_of_its_own_has_few_frames_too(harness: Harness) -> None:
    event = json.dumps({"uuid": "0b8f7f0e-6f2c-4d6e-9a67-0f6d5a1c2b3d", "uri": "/", "name": "x"})
    for _ in range(2):
        harness.kafka.produce(ACCESS_LOG.topic, event.encode())
    stacks = stacks_of(harness, ACCESS_LOG)
    assert stacks.bulk[:2] == ["bulk", "send"]
    assert len(stacks.bulk) <= MOST_FRAMES


def test_from_the_asset_to_the_servers_of_a_refresh_there_are_few_frames(harness: Harness) -> None:
    harness.access(20)
    harness.run()
    harness.redis.set_values({"presto": "changed"})
    harness.publish_changes([ReferenceChange("redis", "presto")])
    stacks = stacks_of(harness, REFERENCE_CHANGES)
    assert stacks.bulk[:3] == ["bulk", "send", "Refresher._send"]
    assert len(stacks.bulk) <= MOST_FRAMES
    assert len(stacks.query) <= MOST_FRAMES
