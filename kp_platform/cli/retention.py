"""`kp retention`: delete expired data.

Belongs here: its options and output, and opening Dagster's history. Does not belong here: what is
deleted (`operations/retention.py`, `orchestration/retention.py`).
"""

import os
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Annotated

import typer

from kp_platform.cli.output import AsJson, print_json, print_line
from kp_platform.local.settings import LocalSettings


def retention(
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only print what would be deleted.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Delete data older than the KP_*_RETENTION_DAYS settings, as the nightly schedule does."""
    from kp_platform.local.dagster import history_folder

    settings = LocalSettings()
    folder = history_folder(settings, os.environ.get("DAGSTER_HOME", ""))

    from kp_platform.adapters.elasticsearch import ElasticsearchAdapter
    from kp_platform.adapters.kafka import KafkaAdapter
    from kp_platform.flows.builtin import FLOWS
    from kp_platform.orchestration.instance import open_instance
    from kp_platform.orchestration.retention import Retention, sentence

    elasticsearch, kafka = ElasticsearchAdapter(settings), KafkaAdapter(settings)
    with open_instance(folder, settings.dagster_postgres_url.get_secret_value()) as instance:
        applied = Retention(elasticsearch, kafka, instance, FLOWS, settings)
        found = applied.apply(datetime.now(UTC), dry_run=dry_run)
    if as_json:
        print_json([asdict(each) for each in found])
    else:
        for each in found:
            print_line(sentence(each, dry_run))
