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


@dataclass(frozen=True, slots=True)
class Figure:
    """What is measured, its target in words, and whether it is met."""

    name: str
    target: str
    value: str
    is_met: bool


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
    return page


def _met(figure: Mapping[str, Any]) -> str:
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
