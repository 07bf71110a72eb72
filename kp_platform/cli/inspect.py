"""Commands that read only: `kp lag`, `kp config`, `kp sizing`.

Belongs here: their options and output. Does not belong here: the numbers (`engine/lag.py`,
`operations/sizing.py`) and the settings.
"""

from dataclasses import asdict
from typing import Annotated

import typer
from rich.table import Table

from kp_platform.cli.output import AsJson, console, print_json, print_line
from kp_platform.local.settings import LocalSettings
from kp_platform.settings import Settings, environment


def lag(as_json: AsJson = False) -> None:
    """Show the number of events in each partition that are not indexed yet."""
    from kp_platform.adapters.elasticsearch import ElasticsearchAdapter
    from kp_platform.adapters.kafka import KafkaAdapter
    from kp_platform.engine.lag import partition_lags
    from kp_platform.flows.builtin import FLOWS

    settings = Settings()
    kafka, elasticsearch = KafkaAdapter(settings), ElasticsearchAdapter(settings)
    rows = [asdict(each) for flow in FLOWS for each in partition_lags(flow, kafka, elasticsearch)]
    if as_json:
        print_json(rows)
        return
    names = ("flow", "topic", "partition", "low", "high", "position", "lag")
    table = Table(*names, box=None)
    for row in rows:
        table.add_row(*("-" if row[name] is None else str(row[name]) for name in names))
    console().print(table)


def config(
    as_json: AsJson = False,
    show_secrets: Annotated[
        bool, typer.Option("--show-secrets", help="Do not mask passwords.")
    ] = False,
) -> None:
    """Show the effective settings as environment variables."""
    values = environment(LocalSettings(), secrets=show_secrets)
    if as_json:
        print_json(values)
        return
    for name, value in values.items():
        print_line(f"{name}={value}")


def sizing(
    peak: Annotated[float, typer.Argument(min=0.001, help="Events per second at the peak.")],
    average: Annotated[
        float | None,
        typer.Option(min=0.001, help="Daily average of events per second; default: PEAK / 3."),
    ] = None,
    catch_up: Annotated[
        float, typer.Option(min=1, help="Capacity to process a backlog, as a multiple of the peak.")
    ] = 2.0,
    cores: Annotated[int, typer.Option(min=1, help="CPU cores of each machine.")] = 4,
    keep_days: Annotated[int, typer.Option(min=1, help="Retention of documents in days.")] = 30,
    topic_days: Annotated[int, typer.Option(min=1, help="Retention of topics in days.")] = 7,
    as_json: AsJson = False,
) -> None:
    """Estimate partitions, runs, Trino workers, shards, memory and disk for a rate of events, based
    on the benchmarks (docs/performance.md)."""
    from kp_platform.operations.sizing import Load, needs

    load = Load(
        peak=peak,
        average=peak / 3 if average is None else average,
        catch_up=catch_up,
        cores=cores,
        keep_days=keep_days,
        topic_days=topic_days,
    )
    found = list(needs(load))
    if as_json:
        print_json([asdict(each) for each in found])
        return
    table = Table("resource", "amount", "basis", box=None, pad_edge=False)
    for each in found:
        table.add_row(each.resource, each.amount, each.basis)
    console().print(table)
