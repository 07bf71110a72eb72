"""Reports of slices in Dagster: log sentence, metadata, preview and checks.

Belongs here: how reports are grouped and shown. Does not belong here: counting (`engine/`) and the
assets that report (`flow_assets.py`).
"""

import time
from collections.abc import Iterator, Sequence
from typing import Any

import dagster as dg

from kp_platform.engine.reports import Outcome, SliceReport
from kp_platform.flows.builtin import ACCESS_LOG, FULL_TEXT
from kp_platform.flows.model import AnyFlow

# A report costs 11 kB of Dagster's database. Small consecutive slices are reported together: the
# first ones of a run soon, later ones every few minutes.
FIRST_REPORT_SECONDS = 5.0
REPORT_SECONDS = 240.0
REPORT_ROWS = 100_000
PREVIEW_CHARACTERS = 200


def grouped(
    reports: Iterator[SliceReport | None], seconds: float = FIRST_REPORT_SECONDS
) -> Iterator[SliceReport]:
    """Consecutive reports as one, up to `REPORT_ROWS` rows or for a time: none for the first,
    `seconds` for the second, twice as long for each later one, at most `REPORT_SECONDS`."""
    pending: SliceReport | None = None
    due = time.monotonic()
    try:
        for report in reports:
            if report is not None:
                pending = pending.followed_by(report) if pending else report
            if pending is None:
                continue
            if pending.rows >= REPORT_ROWS or time.monotonic() >= due:
                yield pending
                pending, due = None, time.monotonic() + seconds
                seconds = min(2 * seconds, REPORT_SECONDS)
    except Exception:
        if pending is not None:  # slices completed before the failure are still reported
            yield pending
        raise
    if pending is not None:
        yield pending


def sentence(report: SliceReport) -> str:
    """A report for the log of a run."""
    outcome = report.outcome
    counts = ", ".join(f"{count} {what}" for what, count in _counts(outcome).items() if count)
    empty = f" ({report.empty} offsets hold no message)" if report.empty else ""
    return (
        f"{_offsets(report)}: {report.rows} rows{empty}, {counts or 'nothing'}, "
        f"{report.total_seconds:.2f} s, lag {report.lag_after}"
    )


def _counts(outcome: Outcome) -> dict[str, int]:
    return {
        "indexed": outcome.indexed,
        "already indexed": outcome.already_indexed,
        "duplicates": outcome.duplicates,
        "changes applied": outcome.applied,
        "documents refreshed": outcome.refreshed,
        "dead letters": outcome.dead_lettered.total(),
    }


def report_metadata(
    flow: AnyFlow, report: SliceReport, run_id: str, emitter_url: str
) -> dict[str, dg.MetadataValue[Any]]:
    """A report for the Dagster UI; numbers are plotted over time. `emitter_url` is the address of
    the pages that show the documents."""
    value, outcome = dg.MetadataValue, report.outcome
    pages = _pages(flow, report, run_id, emitter_url)
    return {
        "dagster/row_count": value.int(outcome.indexed + outcome.refreshed),
        "slices": value.int(report.slices),
        "offsets": value.text(_offsets(report)),
        "rows": value.int(report.rows),
        "offsets without a message": value.int(report.empty),
        **{name: value.int(count) for name, count in _counts(outcome).items()},
        "gaps": value.json(list(report.gaps)),
        "missing enrichment": value.json({s: report.missing[s] for s in flow.references}),
        "seconds": value.float(round(report.total_seconds, 3)),
        "seconds in Trino": value.float(round(report.trino_seconds, 3)),
        "seconds in Elasticsearch": value.float(round(report.elasticsearch_seconds, 3)),
        "lag after": value.int(report.lag_after),
        "processed rows": value.int(report.query.processed_rows),
        "query id": value.text(report.query.query_id),
        "query": value.url(report.query.info_url),
        **{name: value.url(url) for name, url in pages.items()},
        "preview": preview(report.preview, ("@timestamp", *flow.fields, *flow.references.values())),
    }


def _pages(flow: AnyFlow, report: SliceReport, run_id: str, emitter_url: str) -> dict[str, str]:
    """The pages of the emitter that show the documents of a report."""
    if flow is FULL_TEXT:
        return {"page": f"{emitter_url}/fulltext"}
    if flow is not ACCESS_LOG:
        return {}
    pages = {"page": f"{emitter_url}/analysis?run={run_id}"}
    if report.preview:
        pages["document"] = f"{emitter_url}/analysis/{report.preview[0]['uuid']}"
    return pages


def preview(documents: Sequence[dict[str, Any]], columns: Sequence[str]) -> dg.TableMetadataValue:
    """Some columns of a few documents as a table; each column costs 200 bytes of Dagster's
    database."""
    schema = dg.TableSchema(columns=[dg.TableColumn(name, "string") for name in columns])
    rows = [{name: _cell(document.get(name)) for name in columns} for document in documents]
    return dg.MetadataValue.table([dg.TableRecord(row) for row in rows], schema=schema)


def check_specs(key: dg.AssetKey) -> list[dg.AssetCheckSpec]:
    """The checks of an asset that a flow writes."""
    descriptions = {
        "slice_complete": "Each requested offset was returned once and is accounted for.",
        "no_dead_letters": "No message of this run was dead-lettered (index kp.dead).",
        "no_gaps": "Kafka still held every event that was not indexed; otherwise see kp.gaps.",
    }
    return [
        dg.AssetCheckSpec(name, asset=key, description=description)
        for name, description in descriptions.items()
    ]


def check_results(
    key: dg.AssetKey, total: SliceReport, failure: Exception | None = None
) -> Iterator[dg.AssetCheckResult]:
    """The results of `check_specs` for a run, from the sum of its reports and the error that ended
    it, if any."""
    outcome = total.outcome
    requested, settled = sum(len(each) for each in total.asked), outcome.settled
    yield dg.AssetCheckResult(
        asset_key=key,
        check_name="slice_complete",
        passed=failure is None and requested - total.empty == total.rows == settled,
        description=str(failure) if failure else None,
        metadata={
            "offsets requested": requested,
            "offsets without a message": total.empty,
            "rows": total.rows,
            "accounted for": settled,
        },
    )
    yield dg.AssetCheckResult(
        asset_key=key,
        check_name="no_dead_letters",
        passed=not outcome.dead_lettered,
        severity=dg.AssetCheckSeverity.WARN,
        metadata={
            "dead letters": outcome.dead_lettered.total(),
            "reasons": dict(outcome.dead_lettered),
        },
    )
    yield dg.AssetCheckResult(
        asset_key=key,
        check_name="no_gaps",
        passed=not total.gaps,
        metadata={"gaps": list(total.gaps)},
    )


def _offsets(report: SliceReport) -> str:
    return " ".join(str(each) for each in report.asked) or "none"


def _cell(value: object) -> str:
    return "" if value is None else str(value)[:PREVIEW_CHARACTERS]
