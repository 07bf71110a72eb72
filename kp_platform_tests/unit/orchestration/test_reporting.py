"""How reports of slices are grouped and shown."""

from collections import Counter
from collections.abc import Iterator

import dagster as dg
import pytest

from kp_platform.engine.errors import SliceError
from kp_platform.engine.offsets import OffsetRange
from kp_platform.engine.reports import Outcome, SliceReport
from kp_platform.flows.builtin import ACCESS_LOG, FULL_TEXT
from kp_platform.orchestration.reporting import check_results, grouped, preview, report_metadata

KEY = dg.AssetKey("enriched_access_log")
EMITTER_URL = "http://127.0.0.1:18000"


def report(start: int, end: int) -> SliceReport:
    rows = end - start
    return SliceReport(
        asked=(OffsetRange(0, start, end),), rows=rows, outcome=Outcome(indexed=rows), slices=1
    )


def test_the_first_report_is_yielded_at_once_and_small_later_ones_together() -> None:
    reports = [report(0, 5), report(5, 7), None, report(7, 9)]
    assert [(each.slices, each.asked) for each in grouped(iter(reports))] == [
        (1, (OffsetRange(0, 0, 5),)),
        (2, (OffsetRange(0, 5, 9),)),
    ]


def test_a_thousand_fast_slices_are_two_reports() -> None:
    reports = [report(number, number + 1) for number in range(1_000)]
    assert [each.slices for each in grouped(iter(reports))] == [1, 999]


def test_a_large_slice_is_reported_alone() -> None:
    reports = [report(0, 200_000), report(200_000, 400_000), report(400_000, 400_001)]
    assert [each.rows for each in grouped(iter(reports))] == [200_000, 200_000, 1]


def test_a_pending_report_is_yielded_in_time_although_no_slice_follows() -> None:
    def reports() -> Iterator[SliceReport | None]:
        yield report(0, 5)
        yield None
        pytest.fail("the report should be yielded before the next poll")

    assert next(grouped(reports(), seconds=0.0)).rows == 5


def test_numbers_are_plotted_metadata() -> None:
    metadata = report_metadata(ACCESS_LOG, report(0, 5), "a-run", EMITTER_URL)
    assert metadata["rows"] == dg.MetadataValue.int(5)
    assert metadata["offsets"] == dg.MetadataValue.text("0:[0,5)")
    assert metadata["missing enrichment"] == dg.MetadataValue.json({"mysql": 0, "redis": 0})


def test_a_report_links_to_the_pages_of_its_run_and_of_a_document() -> None:
    shown = report(0, 5)
    shown.preview = [{"uuid": "a-uuid"}, {"uuid": "another"}]
    metadata = report_metadata(ACCESS_LOG, shown, "a-run", EMITTER_URL)
    assert metadata["page"].value == f"{EMITTER_URL}/analysis?run=a-run"
    assert metadata["document"].value == f"{EMITTER_URL}/analysis/a-uuid"
    notes = report_metadata(FULL_TEXT, report(0, 5), "a-run", EMITTER_URL)
    assert notes["page"].value == f"{EMITTER_URL}/fulltext"


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


def test_slices_before_a_failure_are_reported() -> None:
    def failing() -> Iterator[SliceReport | None]:
        yield report(0, 5)
        yield report(5, 7)
        raise SliceError("Trino is down")

    reports = grouped(failing())
    assert [next(reports).rows, next(reports).rows] == [5, 2]
    with pytest.raises(SliceError):
        next(reports)


def test_a_failure_fails_the_check_of_the_slice_with_its_text() -> None:
    complete, dead, gaps = check_results(KEY, report(0, 5), failure=SliceError("MySQL is down"))
    assert (complete.passed, complete.description) == (False, "MySQL is down")
    assert dead.passed
    assert gaps.passed


def test_a_gap_fails_its_check_with_its_text() -> None:
    _, _, gaps = check_results(KEY, SliceReport(gaps=("retention deleted 0:[3,9)",)))
    assert (gaps.passed, gaps.severity) == (False, dg.AssetCheckSeverity.ERROR)
    assert gaps.metadata["gaps"].value == ["retention deleted 0:[3,9)"]
