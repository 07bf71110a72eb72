"""The indexers of the flows over fakes, for tests without a server.

Belongs here: publishing events, running indexers, and reading what is stored. Does not belong here:
the fakes (`fakes.py`).
"""

import json
import uuid
from collections.abc import Sequence

from kp_platform.engine.clock import SYSTEM_CLOCK, Clock
from kp_platform.engine.indexer import Indexer, Limits
from kp_platform.engine.lag import partition_lags
from kp_platform.engine.ports import Servers, Stored
from kp_platform.engine.reference_change import ReferenceChange
from kp_platform.engine.reports import SliceReport
from kp_platform.flows.builtin import ACCESS_LOG, REFERENCE_CHANGES
from kp_platform.flows.model import AnyFlow
from kp_platform.operations.reference_data import seed
from kp_platform_tests.fakes import FakeElasticsearch, FakeKafka, FakeMySQL, FakeRedis, FakeTrino


class Harness:
    """Indexers over fakes, with existing topics and loaded reference data."""

    def __init__(self, slice_rows: int = 1000) -> None:
        self.kafka, self.mysql, self.redis = FakeKafka(), FakeMySQL(), FakeRedis()
        self.trino = FakeTrino(self.kafka, self.mysql, self.redis)
        self.store = FakeElasticsearch()
        self.servers = Servers(self.kafka, self.trino, self.store)
        self.clock: Clock = SYSTEM_CLOCK
        self.kafka.create_topics({ACCESS_LOG.topic: 3, REFERENCE_CHANGES.topic: 3})
        seed(self.mysql, self.redis, self.publish_changes)
        self.limits = Limits(
            slice_rows=slice_rows, bulk_rows=7, follow_idle_seconds=0, max_run_seconds=30
        )
        self.indexer = self.indexer_of(ACCESS_LOG)

    def indexer_of(self, flow: AnyFlow) -> Indexer:
        return Indexer(flow, self.servers, self.limits, clock=self.clock)

    def publish_changes(self, changes: Sequence[ReferenceChange]) -> None:
        for change in changes:
            self.kafka.produce(REFERENCE_CHANGES.topic, change.body(), len(change.key) % 3)

    def access(self, count: int, name: str = "presto", partition: int | None = None) -> list[str]:
        ids = [str(uuid.uuid4()) for _ in range(count)]
        for number, identity in enumerate(ids):
            event = {"uuid": identity, "uri": f"/{identity}", "name": name}
            at = number % 3 if partition is None else partition
            self.kafka.produce(ACCESS_LOG.topic, json.dumps(event).encode(), at)
        return ids

    def run(self) -> list[SliceReport]:
        return [report for report in self.indexer.run() if report is not None]

    def refresh_references(self) -> list[SliceReport]:
        reports = self.indexer_of(REFERENCE_CHANGES).run()
        return [report for report in reports if report is not None]

    def stored(self, prefix: str) -> dict[str, Stored]:
        return {
            identity: stored
            for (index, identity), stored in self.store.documents.items()
            if index.startswith(prefix)
        }

    def stored_keys(self, prefix: str) -> list[tuple[str, str]]:
        """Index and id of each document, also in indices without an alias."""
        return [key for key in self.store.documents if key[0].startswith(prefix)]

    def lag(self, flow: AnyFlow = ACCESS_LOG) -> int:
        return sum(each.lag for each in partition_lags(flow, self.kafka, self.store))
