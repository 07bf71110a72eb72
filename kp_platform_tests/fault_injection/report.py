"""Results of trials: kept as JSON lines, and told as docs/faults.md.

Belongs here: the file and the table. Does not belong here: how a trial goes (`trial.py`).
"""

import statistics
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import orjson

from kp_platform_tests.fault_injection.oracle import KINDS
from kp_platform_tests.stack import ROOT

RESULTS = ROOT / "docs" / "faults.jsonl"
PAGE = ROOT / "docs" / "faults.md"
MOST_CHARACTERS = 300

_INTRO = """# Faults

<!-- Written by `make faults` from faults.jsonl. -->

Each row breaks one thing while a load runs, and heals it. When all is quiet again, an
[oracle](../kp_platform_tests/fault_injection/oracle.py) that shares no code with the platform
compares the ledger of what was sent with the whole topic, the whole index, dead letters, gaps,
positions and their mirror.

```
make faults ROWS="11 15" TRIALS=3 EVENTS=20000 SEED=1
```

runs rows (all without `ROWS`) on a stack of their own, adds the results to
[`faults.jsonl`](faults.jsonl) and writes this page. A short trial of many rows runs in `make test`.

- **lost**: passed by its position, and neither indexed, nor a dead letter, nor in a recorded gap;
  or acknowledged, and not on the topic; or a good event in the dead letters; or a visit that the
  emitter accepted and gave up without counting it.
- **duplicate**: a uuid in two documents of whatever index, or one visit with two uuids.
- **phantom**: a document, dead letter or event that nobody sent.
- **wrong**: any field that differs from ledger, topic and the reference rows of MySQL and Redis.
- **unseen**: on the topic and not indexed though all is quiet.
- **inconsistent**: position, high watermark and mirrored commit differ; an offset both indexed and
  dead; the emitter's accepted events not the sum of those acked, in flight, spooled and dropped.
- **visits failed**: HTTP requests that got no answer or one of 500 and above. Only where the
  emitter itself is ended or killed may there be any.
- **recovery**: seconds from the moment when healing begins (a server's start is part of it) until
  the positions have passed the ends that the topics had when it was done; median and maximum.

Rows of a cluster run on three brokers, of which a message needs two, a Trino coordinator with two
workers, 12 partitions and two runs of each flow at a time; the others on one node of each.

Every load has all flows: accesses straight to Kafka and by HTTP, notes, and a reference row that is
set half-way and that documents indexed before must follow.

0 failures in n trials says only that the chance of a failure is, with 95 % confidence, below 3/n.
"""
_HEAD = (
    "| # | fault | trials | events | lost | duplicate | phantom | wrong | unseen | inconsistent "
    "| visits failed | recovery s | note |\n| --- | --- " + "| ---: " * 9 + "| --- | --- |\n"
)


def append(path: Path, line: Mapping[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("ab") as file:
        file.write(orjson.dumps(line) + b"\n")


def read(path: Path) -> list[dict[str, Any]]:
    if not path.exists():
        return []
    return [orjson.loads(line) for line in path.read_bytes().splitlines() if line.strip()]


def render(results: Sequence[Mapping[str, Any]], order: Sequence[str]) -> str:
    """The page; rows in this order, then the controls."""
    rows: dict[str, list[Mapping[str, Any]]] = defaultdict(list)
    for result in results:
        rows[result["row"]].append(result)
    known = [key for key in order if key in rows]
    trials = [each for key in known for each in rows[key]]
    count = sum(1 for each in trials if each["row"] != "all")
    page = _INTRO + f"\nHere n = {count}.\n\n" + _HEAD
    page += "".join(_row(key, rows[key]) for key in known)
    if controls := [key for key in rows if key.startswith("control")]:
        page += "\nVariants of the pipeline with a defect, which the oracle must catch:\n\n"
        page += "| control | trials | what it found |\n| --- | ---: | --- |\n"
        page += "".join(_control(rows[key]) for key in controls)
    commits = sorted({str(each.get("commit")) for each in results})
    return page + f"\nMeasured at {', '.join(commits)}.\n" if commits else page


def _row(key: str, trials: Sequence[Mapping[str, Any]]) -> str:
    counts = [str(sum(each["counts"][kind] for each in trials)) for kind in KINDS]
    notes = [each[kind] for each in trials for kind in ("problem", "note") if each[kind]]
    dropped = sum(each["dropped"] for each in trials)
    if dropped:
        notes.insert(0, f"{dropped} visits given up and counted")
    return _line(
        [
            key,
            trials[0]["name"],
            str(len(trials)),
            f"{sum(each['events'] for each in trials):,}",
            *counts,
            str(sum(each["visits_failed"] for each in trials)),
            _recovery(trials),
            _noted(notes),
        ]
    )


def _recovery(trials: Sequence[Mapping[str, Any]]) -> str:
    """Nothing breaks while all of a call is checked, so that has none and misses none."""
    seconds = [each["recovery_seconds"] for each in trials]
    known = [each for each in seconds if each is not None]
    missed = sum(each["recovery_seconds"] is None and bool(each["problem"]) for each in trials)
    shown = f"{statistics.median(known):.0f}, {max(known):.0f}" if known else "-"
    return f"{shown}, {missed} not" if missed else shown


def _control(trials: Sequence[Mapping[str, Any]]) -> str:
    found = [f"{sum(each['counts'][kind] for each in trials)} {kind}" for kind in KINDS]
    caught = ", ".join(each for each in found if not each.startswith("0 "))
    return _line([trials[0]["name"], str(len(trials)), f"caught: {caught}" if caught else "missed"])


def _noted(notes: Iterable[str]) -> str:
    """Each note once, as many as a cell has room for."""
    known = list(dict.fromkeys(notes))
    shown = known
    while len("; ".join(shown)) > MOST_CHARACTERS:
        known.pop()
        shown = [*known, "..."]
    return "; ".join(shown).replace("|", "/")


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |\n"
