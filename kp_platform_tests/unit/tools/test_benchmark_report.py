"""Benchmarks: percentiles, CPU time per server, and the page. The figures depend on the machine, so
no test checks them."""

from dataclasses import asdict, replace
from pathlib import Path

import pytest

from kp_platform_tests.benchmarks import report
from kp_platform_tests.benchmarks.backlog import Backlog
from kp_platform_tests.benchmarks.measure import Spread, percentile
from kp_platform_tests.benchmarks.report import Figure, Result, Table
from kp_platform_tests.benchmarks.throughput import Round
from kp_platform_tests.stack import ROOT

RESULT = Result(
    "B2",
    "relative to something",
    "In turns.",
    [Figure("times", ">= 10", "9", is_met=False)],
    Table(("", "seconds"), [["something", "1.5"]]),
    {"date": "2026-01-31T12:00:00+00:00", "commit": "abc", "machine": "m", "versions": {"x": "1"}},
)


@pytest.mark.parametrize(
    ("share", "expected"),
    [
        (0.5, 10),  # half of twenty values
        (0.95, 19),  # at most one of twenty is above
        (0.951, 20),
        (0.999, 20),
        (0.001, 1),
    ],
)
def test_a_percentile_is_one_of_the_measured_values(share: float, expected: float) -> None:
    assert percentile(list(range(20, 0, -1)), share) == expected


def test_the_cpu_time_of_a_server_is_the_sum_over_its_nodes() -> None:
    cpu = {"kafka": 1.0, "kafka-2": 2.0, "trino-worker-1": 4.0, "dagster-daemon": 8.0, "client": 16}
    turn = Round(documents=1, seconds=1.0, cpu=cpu)
    assert [turn.cpu_of(name) for name in ("kafka", "trino", "mysql", "own")] == [3, 4, 0, 24]


def test_a_figure_without_a_target_is_neither_met_nor_missed() -> None:
    result = replace(RESULT, figures=[Figure("documents/s", "", "1.1")])
    assert "| B2 | documents/s |  | 1.1 |  |" in report.render([asdict(result)])


def test_a_spread_is_the_median_and_its_quartiles() -> None:
    assert f"{Spread.of([5, 1, 2, 4, 3]):.1f}" == "3.0 (2.0-4.0)"
    assert Spread.of([7]) == Spread(7, 7, 7)


def test_the_page_shows_the_newest_result_of_each_benchmark(tmp_path: Path) -> None:
    path = tmp_path / "results"
    assert report.newest(path) == []
    for result in (
        replace(RESULT, key="B10"),
        RESULT,
        replace(RESULT, figures=[Figure("times", ">= 10", "11", is_met=True)]),
    ):
        report.append(path, result)
    page = report.render(report.newest(path))
    assert [line for line in page.splitlines() if line.startswith("| B")] == [
        "| B2 | times | >= 10 | 11 | met |",
        "| B10 | times | >= 10 | 9 | not met |",
    ]
    assert "| something | 1.5 |" in page
    assert "Measured on 2026-01-31 at abc: m; x 1." in page


def test_the_page_in_docs_is_rendered_from_its_results() -> None:
    assert report.PAGE.read_text() == report.render(report.newest(report.RESULTS))


def test_the_figures_in_the_readme_are_those_of_the_page() -> None:
    shown = [line for line in (ROOT / "README.md").read_text().splitlines() if line[:3] == "| B"]
    assert len(shown) > 5
    assert set(shown) <= set(report.PAGE.read_text().splitlines())


def test_the_rate_of_a_section_of_a_backlog_uses_the_time_of_that_section() -> None:
    progress = [(0.0, 0), (1.0, 0), (2.0, 10), (3.0, 20), (4.0, 60), (8.0, 100), (9.0, 100)]
    backlog = Backlog(progress, peak_bytes=1, topic_bytes=1, index_bytes=1)
    assert backlog.rate(0.1, 0.2) == 10.0
    assert backlog.rate(0.6, 1.0) == 10.0
