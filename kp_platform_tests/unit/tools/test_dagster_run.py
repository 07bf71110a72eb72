"""The daily growth of Dagster's database, extrapolated from some minutes."""

import pytest

from kp_platform_tests.benchmarks.dagster_run import bytes_a_day

OLD, ENDED, NEW = (f"history/runs/{digit * 8}-0000-4000-8000-{digit * 12}.db" for digit in "abc")
BEFORE = {"history/runs/index.db": 1_000, OLD: 150, ENDED: 100}


def test_bytes_appended_to_existing_files_are_extrapolated_to_a_day() -> None:
    after = BEFORE | {"history/runs/index.db": 1_060}
    assert bytes_a_day(BEFORE, after, 60, 3_600) == pytest.approx(86_400)


def test_each_active_run_adds_a_new_file_when_it_ends() -> None:
    after = BEFORE | {OLD: 160, NEW: 130}  # the smallest file, 100, is that of a new run
    assert bytes_a_day(BEFORE, after, 60, 3_600) == pytest.approx(10 * 1_440 + 2 * 100 * 24)


def test_a_file_that_belongs_to_no_run_counts_as_any_other() -> None:
    before, after = BEFORE | {"history/runs/.db": 10}, BEFORE | {"history/runs/.db": 70}
    assert bytes_a_day(before, after, 60, 3_600) == pytest.approx(86_400)


def test_without_files_of_runs_only_appended_bytes_count() -> None:
    assert bytes_a_day({"log": 10}, {"log": 70}, 60, 3_600) == pytest.approx(86_400)
