"""B12: the latency with Dagster's storage in PostgreSQL, relative to SQLite files.

Belongs here: the two stacks and the comparison. Does not belong here: measuring latency
(`latency.py`).
"""

import statistics
from collections.abc import Iterator, Mapping, Sequence

from kp_platform_tests.benchmarks.latency import (
    PERCENTILES,
    RATES,
    TYPICAL_RATE,
    WARM_UP_SECONDS,
    Steady,
    cold_start,
    cores_of_dagster,
    steady,
)
from kp_platform_tests.benchmarks.report import Figure, Result, Table
from kp_platform_tests.benchmarks.session import Session
from kp_platform_tests.stacks.postgres import postgres

SQLITE, POSTGRES = "SQLite", "PostgreSQL"
STORAGE_RATES = RATES[:3]
IDLE_SECONDS = 60.0


def results(session: Session) -> Iterator[Result]:
    loads: dict[str, list[Steady]] = {}
    cold: dict[str, float] = {}
    with postgres() as url:
        for name, setting in ((SQLITE, ""), (POSTGRES, url)):
            with session.stack(dagster_postgres_url=setting) as stack:
                steady(stack, TYPICAL_RATE, WARM_UP_SECONDS)
                loads[name] = [steady(stack, rate, session.seconds) for rate in STORAGE_RATES]
                cold[name] = statistics.median(
                    cold_start(stack, IDLE_SECONDS).delay for _ in range(session.rounds)
                )
            delays = ", ".join(f"{each.delay(0.5):.2f} s" for each in loads[name])
            session.log(f"{name}: p50 {delays}; cold start {cold[name]:.2f} s")
    worst = max(
        theirs.delay(0.5) / ours.delay(0.5)
        for ours, theirs in zip(loads[SQLITE], loads[POSTGRES], strict=True)
    )
    first = cold[POSTGRES] / cold[SQLITE]
    yield Result(
        "B12",
        "Dagster's storage in PostgreSQL",
        f"B4 with Dagster's storage in SQLite files, then in PostgreSQL on the same machine: "
        f"{session.seconds:.0f} s at each rate. Cold start: median of {session.rounds} accesses "
        f"after {IDLE_SECONDS:.0f} s idle, when no run is active.",
        [
            Figure(
                "p50 latency, PostgreSQL relative to SQLite, worst rate",
                "<= 1.1",
                f"{worst:.2f}",
                worst <= 1.1,
            ),
            Figure(
                "cold-start latency, PostgreSQL relative to SQLite",
                "<= 1.1",
                f"{first:.2f}",
                first <= 1.1,
            ),
        ],
        _table(loads, cold),
    )


def _table(loads: Mapping[str, Sequence[Steady]], cold: Mapping[str, float]) -> Table:
    percentiles = [f"p{100 * share:.0f} (s)" for share in PERCENTILES]
    rows = [
        [name, str(each.rate)]
        + [f"{each.delay(share):.2f}" for share in PERCENTILES]
        + [f"{cores_of_dagster(each.cpu):.2f}"]
        for name, turns in loads.items()
        for each in turns
    ]
    rows += [[name, "cold start", f"{seconds:.2f}", "", "", ""] for name, seconds in cold.items()]
    return Table(("storage", "accesses/s", *percentiles, "cores used by Dagster"), rows)
