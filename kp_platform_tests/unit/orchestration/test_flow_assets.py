"""How reports of slices are gathered and shown."""

from collections import Counter
from collections.abc import Iterator

import dagster as dg
import pytest

from kp_platform.engine.errors import SliceError
from kp_platform.engine.offsets import OffsetRange
from kp_platform.engine.reports import Outcome, SliceReport
from kp_platform.flows.builtin import ACCESS_LOG, FULL_TEXT
from kp_platform.orchestration.flow_assets import (
    IndexConfig,
    check_results,
    gathered,
    preview,
    report_metadata,
)

KEY = dg.AssetKey("enriched_access_log")


def report(start: int, end: int) -> SliceReport:
    rows = end - start
    return SliceReport(
        asked=(OffsetRange(0, start, end),), rows=rows, outcome=Outcome(indexed=rows), slices=1
    )


def test_the_first_report_goes_out_at_once_and_small_ones_after_it_together() -> None:
    reports = [report(0, 5), report(5, 7), None, report(7, 9)]
    assert [(each.slices, each.asked) for each in gathered(iter(reports))] == [
        (1, (OffsetRange(0, 0, 5),)),
        (2, (OffsetRange(0, 5, 9),)),
    ]


def test_a_thousand_quick_slices_are_two_reports() -> None:
    reports = [report(number, number + 1) for number in range(1_000)]
    assert [each.slices for each in gathered(iter(reports))] == [1, 999]


def test_a_large_slice_is_a_report_of_its_own() -> None:
    reports = [report(0, 200_000), report(200_000, 400_000), report(400_000, 400_001)]
    assert [each.rows for each in gathered(iter(reports))] == [200_000, 200_000, 1]


def test_a_waiting_report_goes_out_after_a_while_though_nothing_follows() -> None:
    def follow() -> Iterator[SliceReport | None]:
        yield report(0, 5)
        yield None
        pytest.fail("the report should have come before the next look")

    assert next(gathered(follow(), seconds=0.0)).rows == 5


def test_numbers_are_metadata_that_dagster_plots() -> None:
    metadata = report_metadata(ACCESS_LOG, report(0, 5), "a-run")
    assert metadata["rows"] == dg.MetadataValue.int(5)
    assert metadata["offsets"] == dg.MetadataValue.text("0:[0,5)")
    assert metadata["missing enrichment"] == dg.MetadataValue.json({"mysql": 0, "redis": 0})


def test_a_report_links_to_its_run_and_to_a_document_on_the_page() -> None:
    shown = report(0, 5)
    shown.preview = [{"uuid": "a-uuid"}, {"uuid": "another"}]
    metadata = report_metadata(ACCESS_LOG, shown, "a-run")
    address = "http://127.0.0.1:18000"
    assert metadata["page"].value == f"{address}/analysis?run=a-run"
    assert metadata["document"].value == f"{address}/analysis/a-uuid"
    notes = report_metadata(FULL_TEXT, report(0, 5), "a-run")
    assert notes["page"].value == f"{address}/fulltext"


def test_a_preview_shows_the_documents_with_empty_cells_for_null() -> None:
    shown = preview([{"uuid": "u", "test_id": None, "uri": "/"}], ("uuid", "test_id"))
    assert [dict(record.data) for record in shown.records] == [{"uuid": "u", "test_id": ""}]


def test_an_unaccounted_row_fails_the_check() -> None:
    lost = report(0, 5)
    lost.outcome.indexed = 4
    passed = {each.check_name: each.passed for each in check_results(KEY, lost)}
    assert passed == {
        "slice_complete": False,
        "no_dead_letters": True,
        "no_gaps": True,
    }


def test_a_dead_letter_warns_with_its_reason() -> None:
    bad = report(0, 1)
    bad.outcome = Outcome(dead_lettered=Counter(not_json=1))
    _, check, _ = check_results(KEY, bad)
    assert (check.passed, check.severity) == (False, dg.AssetCheckSeverity.WARN)
    assert check.metadata["reasons"].value == {"not_json": 1}


def test_what_was_done_before_a_failure_is_still_reported() -> None:
    def failing() -> Iterator[SliceReport | None]:
        yield report(0, 5)
        yield report(5, 7)
        raise SliceError("Trino is down")

    reports = gathered(failing())
    assert [next(reports).rows, next(reports).rows] == [5, 2]
    with pytest.raises(SliceError):
        next(reports)


def test_a_failure_fails_the_check_of_the_slice_with_its_text() -> None:
    complete, dead, lost = check_results(KEY, report(0, 5), failure=SliceError("MySQL is down"))
    assert (complete.passed, complete.description) == (False, "MySQL is down")
    assert dead.passed
    assert lost.passed


def test_a_loss_fails_its_check_and_says_what_was_lost() -> None:
    _, _, lost = check_results(KEY, SliceReport(gaps=("retention deleted 0:[3,9)",)))
    assert (lost.passed, lost.severity) == (False, dg.AssetCheckSeverity.ERROR)
    assert lost.metadata["gaps"].value == ["retention deleted 0:[3,9)"]


def test_limits_left_out_of_the_run_config_come_from_the_settings(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("KP_SLICE_ROWS", "123")
    limits = IndexConfig(bulk_rows=7).limits()
    assert (limits.slice_rows, limits.bulk_rows) == (123, 7)
