"""Results of trials: stored as JSON lines, rendered as docs/faults.md.

Belongs here: the file and the page. Does not belong here: the steps of a trial (`trial.py`).
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
NOTE_CHARACTERS = 300

_INTRO = """# Fault injection

<!-- Written by `make faults` from faults.jsonl. -->

Each row injects one fault while a load runs, and removes it. When the stack is idle again, an
[oracle](../kp_platform_tests/fault_injection/oracle.py) that shares no code with the platform
compares the ledger of sent messages with the whole topic, the whole index, dead letters, gaps,
positions and committed offsets.

```
make faults ROWS="11 15" TRIALS=3 EVENTS=20000 SEED=1
```

runs rows (by default all) on a stack of their own, appends the results to
[`faults.jsonl`](faults.jsonl) and writes this page. `make test` runs short trials of many rows.

- **lost**: below its position, and neither indexed, nor a dead letter, nor in a recorded gap; or
  acknowledged, and not on the topic; or a valid event in the dead letters; or a visit that the
  emitter accepted and dropped without counting it.
- **duplicate**: a uuid in two documents of any index, or one visit with two uuids.
- **phantom**: a document, dead letter or event that was not sent.
- **wrong**: a field that differs from the ledger, the topic, or the reference data in MySQL and
  Redis.
- **unseen**: on the topic and not indexed, although the stack is idle.
- **inconsistent**: position, high watermark and committed offset differ; an offset is both indexed
  and a dead letter; the emitter's accepted events are not the sum of acknowledged, in-flight,
  spooled and dropped events.
- **failed visits**: HTTP requests without a response or with a status >= 500. They are allowed only
  where the emitter itself is stopped or killed.
- **recovery**: seconds from the start of the repair (including the start of a server) until the
  positions reach the end offsets that the topics had at its end; median and maximum.

Cluster rows run on three brokers with two in-sync replicas per message, a Trino coordinator with
two workers, 12 partitions and two concurrent runs of each flow; the other rows run on one node of
each server.

Every load covers all flows: accesses sent to Kafka directly and by HTTP, notes, and reference data
that change during the load, so that documents indexed before must be refreshed.

0 failures in n trials means that the probability of a failure is below 3/n, with 95 % confidence.
"""
_HEAD = (
    "| # | fault | trials | events | lost | duplicate | phantom | wrong | unseen | inconsistent "
    "| failed visits | recovery (s) | notes |\n| --- | --- " + "| ---: " * 9 + "| --- | --- |\n"
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
    """The page: rows in this order, then the controls."""
    rows: dict[str, list[Mapping[str, Any]]] = defaultdict(list)
    for result in results:
        rows[result["row"]].append(result)
    known = [key for key in order if key in rows]
    trials = [each for key in known for each in rows[key]]
    count = sum(1 for each in trials if each["row"] != "all")
    page = _INTRO + f"\nHere n = {count}.\n\n" + _HEAD
    page += "".join(_row(key, rows[key]) for key in known)
    if controls := [key for key in rows if key.startswith("control")]:
        page += "\nVariants of the indexer with a defect, which the oracle must detect:\n\n"
        page += "| control | trials | detected |\n| --- | ---: | --- |\n"
        page += "".join(_control(rows[key]) for key in controls)
    commits = sorted({str(each.get("commit")) for each in results})
    return page + f"\nMeasured at {', '.join(commits)}.\n" if commits else page


def _row(key: str, trials: Sequence[Mapping[str, Any]]) -> str:
    counts = [str(sum(each["counts"][kind] for each in trials)) for kind in KINDS]
    notes = [each[kind] for each in trials for kind in ("problem", "note") if each[kind]]
    dropped = sum(each["dropped"] for each in trials)
    if dropped:
        notes.insert(0, f"{dropped} visits dropped and counted")
    return _line(
        [
            key,
            trials[0]["name"],
            str(len(trials)),
            f"{sum(each['events'] for each in trials):,}",
            *counts,
            str(sum(each["visits_failed"] for each in trials)),
            _recovery(trials),
            _notes(notes),
        ]
    )


def _recovery(trials: Sequence[Mapping[str, Any]]) -> str:
    """Median and maximum, and the number of trials that did not recover; `-` for the check of all
    data, which has no fault."""
    seconds = [each["recovery_seconds"] for each in trials]
    known = [each for each in seconds if each is not None]
    missed = sum(each["recovery_seconds"] is None and bool(each["problem"]) for each in trials)
    shown = f"{statistics.median(known):.0f}, {max(known):.0f}" if known else "-"
    return f"{shown}, {missed} not" if missed else shown


def _control(trials: Sequence[Mapping[str, Any]]) -> str:
    found = [f"{sum(each['counts'][kind] for each in trials)} {kind}" for kind in KINDS]
    detected = ", ".join(each for each in found if not each.startswith("0 "))
    return _line([trials[0]["name"], str(len(trials)), detected or "nothing"])


def _notes(notes: Iterable[str]) -> str:
    """Each distinct note, up to `NOTE_CHARACTERS`."""
    known = list(dict.fromkeys(notes))
    shown = known
    while len("; ".join(shown)) > NOTE_CHARACTERS:
        known.pop()
        shown = [*known, "..."]
    return "; ".join(shown).replace("|", "/")


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |\n"
