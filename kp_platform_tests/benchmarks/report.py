"""Figures: kept as JSON lines, and told as docs/performance.md.

Belongs here: what a figure is, the file and the page. Does not belong here: measuring.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import orjson

from kp_platform_tests.stack import ROOT

RESULTS = ROOT / "docs" / "performance.jsonl"
PAGE = ROOT / "docs" / "performance.md"

_INTRO = """# Performance

<!-- Written by `make bench` from performance.jsonl. -->

Figures are ratios of two things measured in turns by one command on one machine, so they carry
over; times and rates do not. `make bench BENCH=B1` measures one again on a stack of its own and
writes this page; the newest measurement of each counts. Spread: median (quartiles).
"""

_LIMITS = """
## What sets the limits

B1 and B3: all cores are busy, so documents/s follow from the CPU that a document takes, as the
tables show. Elasticsearch takes as much of our documents as of raw bulk's. What comes on top is
the join in Trino, and Python: decoding Trino's JSON, checking each message and making its
document, sending it, and the start of a run, which the others do not have. A straight-line
consumer makes documents of messages it has at hand; here each row passes Trino, is written as
JSON and read again. Of the 5 us of Python that a document takes in a run, two fifths decode
Trino's answer, two fifths make the document, and one fifth sends it; the start of a run, 2
CPU-seconds, comes on top. Between two slices the cores wait 0.25 s for Trino to plan the next.

B6: a request takes 95 us of CPU, its event 32 more: 12 make it (redaction and the uuid among
them), 4 find the name, the rest hands it to librdkafka and takes its report.

B8: where reference data are large, one more query finds the keys of a slice, so that Trino need
not read all of MySQL and Redis. It reads the slice a second time. Reading all instead would take
half as long again.

B4: at 1,000 accesses/s the visitors, the emitter and the servers share the cores with the query,
which takes 0.2 s when it has them to itself; an event waits for the slice that is at work, and
then for its own.
"""


@dataclass(frozen=True, slots=True)
class Figure:
    """What is measured, its target in words, and whether it is met. No target: empty words."""

    name: str
    target: str
    value: str
    is_met: bool = True


@dataclass(frozen=True, slots=True)
class Table:
    head: Sequence[str]
    rows: Sequence[Sequence[str]]


@dataclass(frozen=True, slots=True)
class Result:
    """One benchmark. `details` is a table of what its figures are made of."""

    key: str
    title: str
    how: str
    figures: Sequence[Figure]
    details: Table
    provenance: Mapping[str, Any] = field(default_factory=dict)


def append(path: Path, result: Result) -> None:
    with path.open("ab") as file:
        file.write(orjson.dumps(asdict(result)) + b"\n")


def newest(path: Path) -> list[dict[str, Any]]:
    """The last result of each benchmark, by key."""
    lines = path.read_bytes().splitlines() if path.exists() else []
    results = {result["key"]: result for result in map(orjson.loads, lines)}
    return sorted(results.values(), key=lambda each: int(each["key"][1:]))


def render(results: Sequence[Mapping[str, Any]]) -> str:
    figures = [
        (each["key"], figure["name"], figure["target"], figure["value"], _met(figure))
        for each in results
        for figure in each["figures"]
    ]
    page = _INTRO + "\n" + _table(("", "figure", "target", "measured", ""), figures)
    for each in results:
        details = each["details"]
        page += f"\n## {each['key']} {each['title']}\n\n{each['how']}\n\n"
        page += _table(details["head"], details["rows"])
        page += f"\n{_measured(each['provenance'])}\n"
    return page + _LIMITS


def _met(figure: Mapping[str, Any]) -> str:
    if not figure["target"]:
        return ""
    return "met" if figure["is_met"] else "not met"


def _measured(provenance: Mapping[str, Any]) -> str:
    versions = ", ".join(f"{name} {known}" for name, known in provenance["versions"].items())
    return (
        f"Measured on {provenance['date'][:10]} at {provenance['commit']}: "
        f"{provenance['machine']}; {versions}."
    )


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "".join("| " + " | ".join(line) + " |\n" for line in lines)
