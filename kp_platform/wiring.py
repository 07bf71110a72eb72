"""From settings to adapters to indexers, for Dagster and the `kp` command alike.

Belongs here: the adapters of an indexer, and its limits. Does not belong here: indexing (`engine/`)
and talking to a server (`adapters/`).
"""

from collections.abc import Sequence

from kp_platform.adapters.elasticsearch import ElasticsearchAdapter
from kp_platform.adapters.kafka import KafkaAdapter
from kp_platform.adapters.trino import TrinoAdapter
from kp_platform.engine.indexer import Indexer, Limits
from kp_platform.engine.ports import Servers
from kp_platform.flows.builtin import FLOWS
from kp_platform.flows.model import AnyFlow
from kp_platform.settings import Settings


def limits(settings: Settings) -> Limits:
    """The limits of a run, from the settings."""
    return Limits(
        slice_rows=settings.slice_rows,
        bulk_rows=settings.bulk_rows,
        follow_idle_seconds=settings.follow_idle_seconds,
        max_run_seconds=settings.max_run_seconds,
    )


def servers(settings: Settings) -> Servers:
    """The servers of the settings."""
    return Servers(KafkaAdapter(settings), TrinoAdapter(settings), ElasticsearchAdapter(settings))


def indexers_of(
    flows: Sequence[AnyFlow], servers: Servers, limits: Limits, run_id: str = ""
) -> dict[str, Indexer]:
    """The indexer of each flow by its name."""
    return {flow.name: Indexer(flow, servers, limits, run_id) for flow in flows}


def builtin_indexers(settings: Settings) -> dict[str, Indexer]:
    """The indexer of each built-in flow by its name, on the servers of the settings."""
    return indexers_of(FLOWS, servers(settings), limits(settings))
