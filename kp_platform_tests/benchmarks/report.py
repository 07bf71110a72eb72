"""Results: stored as JSON lines, rendered as docs/performance.md.

Belongs here: the types of a result, the file and the page. Does not belong here: measuring.
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

Figures are ratios of two measurements taken in turns by one command on one machine, so they carry
over to other machines; absolute times and rates do not. `make bench BENCH=B1` measures one again on
a stack of its own and writes this page; the page shows the newest result of each benchmark. Spread:
median (quartiles).
"""

_LIMITS = """
## Bottlenecks

B1 and B3: all cores are busy, so documents/s follow from the CPU time per document, as the tables
show. Elasticsearch needs the same CPU time for the platform's documents as for raw bulk requests.
The difference is the join in Trino, and Python: decoding Trino's JSON, validating each message,
building and sending the document, and the start of a run, which the other contenders do not have. A
straight-line consumer builds documents directly from messages; here each row passes through Trino,
is encoded as JSON and decoded again. Of the 5 us of Python per document, two fifths decode Trino's
response, two fifths build the document and one fifth sends it. The start of a run adds 2
CPU-seconds. Between two slices the cores wait 0.25 s for Trino to plan the next query.

B6: a request takes 95 us of CPU and its event 32 us more: 12 us build the event (including
redaction and the uuid), 4 us determine the name, and the rest enqueues it in librdkafka and
processes the delivery report.

B8: with large reference data, one more query determines the keys of a slice, so that Trino does
not read MySQL and Redis completely. That query reads the slice a second time. Reading all reference
data instead would take 50 % longer.

B4: at 1,000 accesses/s the visitors, the emitter and the servers share the cores with the query,
which takes 0.2 s on idle cores. An event waits for the slice in progress, then for its own.
"""


@dataclass(frozen=True, slots=True)
class Figure:
    """One measured value, its target (empty if it has none), and whether the target is met."""

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
    """The result of one benchmark. `details` are the measurements behind its figures."""

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
    versions = ", ".join(f"{name} {version}" for name, version in provenance["versions"].items())
    return (
        f"Measured on {provenance['date'][:10]} at {provenance['commit']}: "
        f"{provenance['machine']}; {versions}."
    )


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "".join("| " + " | ".join(line) + " |\n" for line in lines)
