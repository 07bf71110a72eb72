"""Sizing uses the measured figures, and grows with the load."""

import re

import pytest
from typer.testing import CliRunner

from kp_platform.cli.main import app
from kp_platform.operations import sizing
from kp_platform.operations.sizing import Load, needs
from kp_platform_tests.benchmarks import report
from kp_platform_tests.stack import ROOT


def measured(key: str, row: str, column: int = 1) -> float:
    """The number in a table of docs/performance.md."""
    [result] = [each for each in report.newest(report.RESULTS) if each["key"] == key]
    [cells] = [each for each in result["details"]["rows"] if each[0] == row]
    return float(re.split(r"[ (]", cells[column])[0].replace(",", ""))


def test_the_figures_are_those_of_the_newest_benchmarks() -> None:
    [endurance] = [each for each in report.newest(report.RESULTS) if each["key"] == "B9"]
    memory = endurance["figures"][1]["value"]
    assert [
        sizing.RUN_RATE,
        sizing.RUN_CPU,
        sizing.KAFKA_CPU,
        sizing.TRINO_CPU,
        sizing.ELASTICSEARCH_CPU,
        sizing.CAUGHT_UP_TRINO_CORES,
        sizing.EVENT_BYTES,
        sizing.DOCUMENT_BYTES,
        f"{sizing.RUN_BYTES / 1e6:.0f} MB",
    ] == [
        *(measured("B1", "kp_platform", column) for column in range(1, 6)),
        measured("B5", "trino"),
        measured("B9", "bytes of an event in Kafka"),
        measured("B9", "bytes of a document in Elasticsearch"),
        memory,
    ]


def amounts(**load: float) -> dict[str, str]:
    wanted = {"peak": 1_000.0, "average": 300.0, **load}
    return {each.resource: each.amount for each in needs(Load(**wanted))}  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("load", "resource", "amount"),
    [
        ({"peak": 1_000}, "runs of the flow", "1"),
        ({"peak": 1_000}, "KP_PARTITIONS_PER_RUN", "0"),
        ({"peak": 30_000}, "runs of the flow", "2"),
        ({"peak": 30_000}, "partitions of the topic", "12"),
        ({"peak": 30_000}, "KP_PARTITIONS_PER_RUN", "6"),
        ({"peak": 30_000, "catch_up": 1}, "runs of the flow", "1"),
        ({"peak": 30_000}, "heap of a Trino worker", "1.9 GB"),
        ({"peak": 100_000}, "workers of Trino", "3"),
        ({"peak": 100_000, "cores": 16}, "workers of Trino", "1"),
        ({"average": 10}, "primary shards of a day", "1"),
    ],
)
def test_a_load_needs_this_amount(load: dict[str, float], resource: str, amount: str) -> None:
    assert amounts(**load)[resource] == amount


def test_disks_grow_with_the_retention() -> None:
    once, twice = amounts(keep_days=10, topic_days=2), amounts(keep_days=20, topic_days=4)
    for what in ("disk of Elasticsearch", "disk of Kafka"):
        (size, unit), (doubled, same) = once[what].split(), twice[what].split()
        assert same == unit
        assert float(doubled) == pytest.approx(2 * float(size), rel=0.02)


def test_the_worked_example_is_what_the_command_prints() -> None:
    page = (ROOT / "docs" / "how-to" / "cluster.md").read_text()
    [(command, shown)] = re.findall(r"```\n\.venv/bin/(kp sizing [^\n]*)\n\n(.*?)```", page, re.S)
    printed = CliRunner().invoke(app, command.split()[1:]).stdout
    assert [line.rstrip() for line in printed.splitlines()] == shown.splitlines()
