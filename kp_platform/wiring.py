"""From settings to adapters to indexers, for Dagster and the `kp` command alike.

Belongs here: which adapters an indexer gets, and its limits. Does not belong here: what an indexer
does (`engine/`) and what a server understands (`adapters/`).
"""

from collections.abc import Sequence

from kp_platform.adapters.elasticsearch import ElasticsearchAdapter
from kp_platform.adapters.kafka import KafkaAdapter
from kp_platform.adapters.trino import TrinoAdapter
from kp_platform.engine.indexer import Indexer, Limits
from kp_platform.engine.ports import Log
from kp_platform.engine.sql import QueryEngine
from kp_platform.engine.store import DocumentStore
from kp_platform.flows.builtin import FLOWS
from kp_platform.flows.model import Flow
from kp_platform.settings import Settings


def limits(settings: Settings) -> Limits:
    """The bounds of a run, from the settings."""
    return Limits(
        slice_rows=settings.slice_rows,
        bulk_rows=settings.bulk_rows,
        follow_idle_seconds=settings.follow_idle_seconds,
        max_run_seconds=settings.max_run_seconds,
    )


def indexers_of(
    flows: Sequence[Flow],
    log: Log,
    engine: QueryEngine,
    store: DocumentStore,
    limits: Limits,
    run_id: str = "",
) -> dict[str, Indexer]:
    """The indexer of each flow by its name."""
    return {flow.name: Indexer(flow, log, engine, store, limits, run_id) for flow in flows}


def builtin_indexers(settings: Settings) -> dict[str, Indexer]:
    """The indexer of each built-in flow by its name, on the servers of the settings."""
    kafka, trino = KafkaAdapter(settings), TrinoAdapter(settings)
    return indexers_of(FLOWS, kafka, trino, ElasticsearchAdapter(settings), limits(settings))
