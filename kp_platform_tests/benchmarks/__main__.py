"""`python -m kp_platform_tests.benchmarks`: figures, each on a stack of its own.

Belongs here: options, the stack's start and end, progress, and what is made of the rounds. Does not
belong here: measuring. `make bench` calls it.
"""

import argparse
import signal
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import fields, replace
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

from rich.console import Console

from kp_platform_tests.benchmarks import dimensions, emitter, month, reading, report
from kp_platform_tests.benchmarks.dimensions import Dimensions
from kp_platform_tests.benchmarks.latency import (
    COMMON_URIS,
    LOOK_SECONDS,
    SAMPLES_PER_SECOND,
    Steady,
    first_after,
    steady,
)
from kp_platform_tests.benchmarks.measure import Spread, cpu_seconds, percentile, provenance, spent
from kp_platform_tests.benchmarks.report import Figure, Result, Table
from kp_platform_tests.benchmarks.slices import SLICE, Backlog, Timed, Topics, backlog, write_files
from kp_platform_tests.benchmarks.throughput import (
    OURS,
    RAW,
    SERVERS,
    STRAIGHT,
    TWO_RUNS,
    Arena,
    Round,
)
from kp_platform_tests.stack import Stack, temporary_stack
from kp_platform_tests.stacks.postgres import postgres

# Between the ports of a demo and those of the faults.
OFFSETS = range(1_000, 2_000, 100)


def main(arguments: Sequence[str] | None = None) -> int:
    options = _options(arguments)
    console = Console(highlight=False, soft_wrap=True)
    signal.signal(signal.SIGTERM, _interrupt)
    missed: list[str] = []
    chosen = options.bench.replace(",", " ").split() or list(GROUPS)
    if unknown := sorted(set(chosen) - set(GROUPS)):
        sys.exit(f"no benchmark {', '.join(unknown)}; known: {', '.join(GROUPS)}")
    try:
        for group in dict.fromkeys(GROUPS[key] for key in chosen):
            with tempfile.TemporaryDirectory(prefix="kp-bench-") as folder:
                for result in group(Path(folder), options, console, chosen):
                    complete = replace(result, provenance=provenance())
                    report.append(options.results, complete)
                    missed += _show(complete, console)
    except KeyboardInterrupt:
        console.print("interrupted")
        return 130
    finally:
        options.page.write_text(report.render(report.newest(options.results)))
    return 1 if missed else 0


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="make bench", description=__doc__.splitlines()[0])
    parser.add_argument("--bench", default="", help="keys of benchmarks; none: all")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--events", type=int, default=1_000_000)
    parser.add_argument("--seconds", type=float, default=120.0, help="of each rate of B4 and B12")
    parser.add_argument("--idle", type=float, default=300.0, help="seconds before a first access")
    parser.add_argument("--results", type=Path, default=report.RESULTS)
    parser.add_argument("--page", type=Path, default=report.PAGE)
    return parser.parse_args(arguments)


def _interrupt(_number: int, _frame: FrameType | None) -> NoReturn:
    raise KeyboardInterrupt


def _show(result: Result, console: Console) -> list[str]:
    """The names of the figures that miss their targets."""
    for each in result.figures:
        state = "" if each.is_met else "  (not met)"
        target = f", target {each.target}" if each.target else ""
        console.print(f"{result.key} {each.name}: {each.value}{target}{state}")
    return [each.name for each in result.figures if not each.is_met]


def _stack(console: Console, **settings: Any) -> AbstractContextManager[Stack]:
    console.print("starting a stack")
    return temporary_stack("bench", OFFSETS, **settings)


def _throughput(
    folder: Path, options: argparse.Namespace, console: Console, chosen: Sequence[str]
) -> Iterator[Result]:
    with _stack(console) as stack:
        arena = Arena(stack, folder, options.events)
        rivals = [RIVALS[key] for key in ("B1", "B3") if key in chosen]
        rounds = _in_turns(arena, [OURS, *rivals], options, console)
        for key in chosen:
            if key in RIVALS:
                yield _against(key, rounds)
            elif key == "B2":
                yield _against_the_example(rounds, arena.example_seconds())


def _runs(
    folder: Path, options: argparse.Namespace, console: Console, _chosen: Sequence[str]
) -> Iterator[Result]:
    with _stack(console, is_cluster=True) as stack:
        arena = Arena(stack, folder, options.events)
        rounds = _in_turns(arena, [OURS, TWO_RUNS], options, console)
    ratio = Spread.of([turns[TWO_RUNS].rate / turns[OURS].rate for turns in rounds])
    yield Result(
        "B11",
        "two runs at a time against one",
        f"{options.events:,} accesses in {stack.settings.topic_partitions} partitions, on three "
        f"brokers and {stack.settings.trino_workers} Trino workers of this machine, all checked. "
        "One run takes all partitions, or two take half of them each; from the start of the first "
        "to the end of the last.",
        [Figure("documents/s of one run", "", f"{ratio:.2f}")],
        _costs_table([OURS, TWO_RUNS], rounds),
    )


def _in_turns(
    arena: Arena, contenders: Sequence[str], options: argparse.Namespace, console: Console
) -> list[Mapping[str, Round]]:
    console.print(f"{options.events:,} events, {options.rounds} rounds")
    rounds: list[Mapping[str, Round]] = []
    for number in range(options.rounds):
        first = number % len(contenders)
        turns = {name: arena.run(name) for name in (*contenders[first:], *contenders[:first])}
        rounds.append(turns)
        rates = (f"{name} {each.rate:,.0f}" for name, each in sorted(turns.items()))
        console.print(f"round {number + 1}, documents/s: {', '.join(rates)}")
    return rounds


def _against(key: str, rounds: Sequence[Mapping[str, Round]]) -> Result:
    rival = RIVALS[key]
    ratio = Spread.of([turns[OURS].rate / turns[rival].rate for turns in rounds])
    target = {"B1": 0.70, "B3": 0.85}[key]
    figures = [
        Figure(f"documents/s of {rival}", f">= {target}", f"{ratio:.2f}", ratio.median >= target)
    ]
    if key == "B1":
        limit = Spread.of([turns[OURS].of_limit for turns in rounds])
        figures.append(
            Figure(
                "of what the servers' CPU allows", ">= 0.90", f"{limit:.2f}", limit.median >= 0.90
            )
        )
    return Result(
        key,
        f"against {rival}",
        f"{rounds[0][OURS].documents:,} accesses from the topic to where they can be searched, all "
        "checked. What the servers' CPU allows: documents/s if Kafka, Trino, MySQL, Redis "
        "and Elasticsearch alone kept all cores busy with what they used for these documents.",
        figures,
        _costs_table([OURS, rival], rounds),
    )


def _costs_table(names: Sequence[str], rounds: Sequence[Mapping[str, Round]]) -> Table:
    return Table(
        ("", "documents/s", *(f"CPU s per 1,000: {name}" for name in ("own", *SERVERS))),
        [_costs(name, [turns[name] for turns in rounds]) for name in names],
    )


def _costs(name: str, turns: Sequence[Round]) -> list[str]:
    rate = Spread.of([turn.rate for turn in turns])
    costs = [
        Spread.of([1000 * turn.cpu_of(each) / turn.documents for turn in turns]).median
        for each in ("own", *SERVERS)
    ]
    return [name, f"{rate:,.0f}", *(f"{cost:.4f}" for cost in costs)]


def _against_the_example(rounds: Sequence[Mapping[str, Round]], example: Sequence[float]) -> Result:
    seconds = Spread.of(example)
    ratio = Spread.of([turns[OURS].rate for turns in rounds]).median * seconds.median
    return Result(
        "B2",
        "against the published example's way",
        f"One query and one index request a message, on the same servers and a topic of "
        f"{rounds[0][OURS].documents:,} messages; {len(example)} messages.",
        [Figure("documents/s, times the example's", ">= 10,000", f"{ratio:,.0f}", ratio >= 10_000)],
        Table(("", "seconds a message"), [["the example", f"{seconds:.2f}"]]),
    )


def _storages(
    _folder: Path, options: argparse.Namespace, console: Console, _chosen: Sequence[str]
) -> Iterator[Result]:
    found: dict[str, list[Steady]] = {}
    firsts: dict[str, float] = {}
    with postgres() as url:
        for name, setting in ((SQLITE, ""), (POSTGRES, url)):
            with _stack(console, dagster_postgres_url=setting) as stack:
                steady(stack, TYPICAL_RATE, WARM_SECONDS)
                found[name] = [steady(stack, rate, options.seconds) for rate in STORAGE_RATES]
                firsts[name] = statistics.median(
                    first_after(stack, IDLE_SECONDS).delay for _ in range(options.rounds)
                )
            delays = ", ".join(f"{each.delay(0.5):.2f} s" for each in found[name])
            console.print(f"{name}: p50 {delays}; first {firsts[name]:.2f} s")
    worst = max(
        theirs.delay(0.5) / ours.delay(0.5)
        for ours, theirs in zip(found[SQLITE], found[POSTGRES], strict=True)
    )
    first = firsts[POSTGRES] / firsts[SQLITE]
    yield Result(
        "B12",
        "Dagster's history in PostgreSQL",
        f"B4 with Dagster's history in SQLite files, then in a PostgreSQL on the same machine: "
        f"{options.seconds:.0f} s at each rate; first: median of {options.rounds} after "
        f"{IDLE_SECONDS:.0f} idle seconds, when no run is there.",
        [
            Figure("p50, PostgreSQL to SQLite, the worst rate", "<= 1.1", f"{worst:.2f}",
                   worst <= 1.1),
            Figure("first access, PostgreSQL to SQLite", "<= 1.1", f"{first:.2f}", first <= 1.1),
        ],
        Table(
            ("history in", "accesses/s", *(f"p{100 * p:.0f} s" for p in PERCENTILES),
             "cores of Dagster"),
            [
                [name, str(each.rate), *(f"{each.delay(p):.2f}" for p in PERCENTILES),
                 f"{_dagsters(each.cpu):.2f}"]
                for name, turns in found.items() for each in turns
            ]
            + [[name, "first", f"{first:.2f}", "", "", ""] for name, first in firsts.items()],
        ),
    )  # fmt: skip


def _latency(
    _folder: Path, options: argparse.Namespace, console: Console, chosen: Sequence[str]
) -> Iterator[Result]:
    with _stack(console) as stack:
        for rate in (TYPICAL_RATE, max(RATES)):  # Trino and Elasticsearch compile what they need
            steady(stack, rate, WARM_SECONDS)
        found: list[Steady] = []
        for rate in RATES if "B4" in chosen else (TYPICAL_RATE,):
            found.append(steady(stack, rate, options.seconds))
            delays = ", ".join(f"p{100 * p:.0f} {found[-1].delay(p):.2f} s" for p in PERCENTILES)
            console.print(f"{rate} accesses/s: {delays}")
        if "B5" in chosen:
            yield _orchestration(stack, next(each for each in found if each.rate == TYPICAL_RATE))
        if "B4" in chosen:
            firsts = []
            for _ in range(options.rounds):
                firsts.append(first_after(stack, options.idle).delay)
                console.print(f"first access after {options.idle:.0f} s: {firsts[-1]:.2f} s")
            yield _delays(found, firsts, options)


def _delays(
    found: Sequence[Steady], firsts: Sequence[float], options: argparse.Namespace
) -> Result:
    median = max(each.delay(0.5) for each in found)
    late = max(each.delay(0.95) for each in found)
    first = percentile(firsts, 0.95)
    typical = next(each for each in found if each.rate == TYPICAL_RATE)
    cores = ", ".join(f"{name} {used:.2f}" for name, used in typical.cpu.items())
    return Result(
        "B4",
        "from an access until it is searchable",
        f"{options.seconds:.0f} s at each rate; up to {SAMPLES_PER_SECOND} accesses a second have "
        f"a URI of their own and are looked for every {1000 * LOOK_SECONDS:.0f} ms, the others one "
        f"of {COMMON_URIS:,}. Stages: medians. Cores kept busy at "
        f"{TYPICAL_RATE} accesses/s: {cores}; all {sum(typical.cpu.values()):.2f}.",
        [
            Figure("p50, the worst rate", "<= 0.5 s", f"{median:.2f} s", median <= 0.5),
            Figure("p95, the worst rate", "<= 0.9 s", f"{late:.2f} s", late <= 0.9),
            Figure(
                f"first after {options.idle:.0f} idle seconds, p95 of {len(firsts)}",
                "<= 5 s", f"{first:.2f} s", first <= 5,
            ),
        ],
        Table(
            ("accesses/s", *(f"p{100 * p:.0f} s" for p in PERCENTILES), *STAGES),
            [
                [str(each.rate), *(f"{each.delay(p):.2f}" for p in PERCENTILES)]
                + [f"{stage:.2f}" for stage in each.stages()]
                for each in found
            ],
        ),
    )  # fmt: skip


def _orchestration(stack: Stack, typical: Steady) -> Result:
    time.sleep(stack.settings.follow_idle_seconds + IDLE_SECONDS / 2)  # until its run has ended
    before, began = cpu_seconds(stack), time.monotonic()
    time.sleep(IDLE_SECONDS)
    idle = spent(before, cpu_seconds(stack))
    cores = _dagsters(idle) / (time.monotonic() - began)
    each = _dagsters(typical.cpu) * typical.seconds / max(1, typical.slices)
    grown = typical.database_bytes / 1e6
    return Result(
        "B5",
        "orchestration",
        f"Dagster's processes and runs at {TYPICAL_RATE} accesses/s for {typical.seconds:.0f} s, "
        f"{typical.slices} slices; and for {IDLE_SECONDS:.0f} s without any.",
        [
            Figure("CPU s a slice", "<= 0.2", f"{each:.2f}", each <= 0.2),
            Figure("cores when idle", "<= 0.1", f"{cores:.2f}", cores <= 0.1),
            Figure("MB of Dagster's database a day", "<= 50", f"{grown:.0f}", grown <= 50),
        ],
        Table(
            ("program", "cores in traffic", "cores when idle"),
            [
                [name, f"{used:.3f}", f"{idle[name] / IDLE_SECONDS:.3f}"]
                for name, used in typical.cpu.items()
            ],
        ),
    )


def _flatness(
    folder: Path, options: argparse.Namespace, console: Console, _chosen: Sequence[str]
) -> Iterator[Result]:
    sizes = {"small": options.events // 10, "large": options.events * 10}
    with _stack(console, presto_etc=str(write_files(folder, sizes))) as stack:
        console.print(f"writing topics of {' and '.join(f'{n:,}' for n in sizes.values())} events")
        topics = Topics(stack, folder, sizes)
        found: dict[str, list[Timed]] = {name: [] for name in sizes}
        for number in range(WARM_SLICES + 4 * options.rounds):
            for name in sizes:
                found[name].append(topics.slice(name, number))
    times = {
        name: Spread.of([each.seconds for each in turns[WARM_SLICES:]])
        for name, turns in found.items()
    }
    ratio = times["large"].median / times["small"].median
    read = max(each.rows_read for turns in found.values() for each in turns)
    yield Result(
        "B7",
        "a slice on a large topic",
        f"Slices of {SLICE:,} events at the end of a topic, in turns; {4 * options.rounds} each.",
        [
            Figure("time, large to small topic", "<= 1.15", f"{ratio:.2f}", ratio <= 1.15),
            Figure("rows read of the topic for each event", "1.0", f"{read:.3f}", read == 1.0),
        ],
        Table(
            ("messages in the topic", "seconds a slice"),
            [[f"{sizes[name]:,}", f"{times[name]:.3f}"] for name in sizes],
        ),
    )


def _dimensions(
    _folder: Path, options: argparse.Namespace, console: Console, _chosen: Sequence[str]
) -> Iterator[Result]:
    events = options.events // 5
    rates: dict[str, list[float]] = {name: [] for name in dimensions.SIZES}
    with _stack(console) as stack:
        console.print("loading reference data")
        both = Dimensions(stack, events)
        for number in range(options.rounds):
            turn = list(rates) if number % 2 else list(rates)[::-1]
            for name in turn:
                rates[name].append(both.rate(name))
            shown = ", ".join(f"{name} {turns[-1]:,.0f}" for name, turns in rates.items())
            console.print(f"round {number + 1}, documents/s: {shown}")
    ratio = Spread.of([many / few for few, many in zip(*rates.values(), strict=True)])
    yield Result(
        "B8",
        "large dimensions",
        f"{events:,} accesses of {dimensions.ACCESSED:,} names; both reference data in turns.",
        [Figure("documents/s, many to few", ">= 0.90", f"{ratio:.2f}", ratio.median >= 0.90)],
        Table(
            ("MySQL rows and Redis keys", "documents/s"),
            [
                [f"{dimensions.SIZES[name]:,} of each", f"{Spread.of(turns):,.0f}"]
                for name, turns in rates.items()
            ],
        ),
    )


def _backlog(
    _folder: Path, options: argparse.Namespace, console: Console, chosen: Sequence[str]
) -> Iterator[Result]:
    events = 5 * options.events
    with _stack(console) as stack:
        console.print(f"a backlog of {events:,} events")
        found = backlog(stack, events)
        if "B9" in chosen:
            yield _endurance(events, found)
        if "B10" in chosen:
            console.print("reading /analysis")
            yield _reading(events, reading.times(stack, 40 * options.rounds))


def _endurance(events: int, found: Backlog) -> Result:
    first, last = found.rate(0.0, 0.1), found.rate(0.9, 1.0)
    megabytes = found.peak_bytes / 1e6
    return Result(
        "B9",
        "a long backlog",
        f"{events:,} accesses, indexed by one run.",
        [
            Figure(
                "rate of the last tenth to the first",
                ">= 0.95",
                f"{last / first:.2f}",
                last >= 0.95 * first,
            ),
            Figure(
                "peak memory of the run's process",
                "< 300 MB",
                f"{megabytes:.0f} MB",
                megabytes < 300,
            ),
        ],
        Table(
            ("", "measured"),
            [
                ["documents/s, first tenth", f"{first:,.0f}"],
                ["documents/s, last tenth", f"{last:,.0f}"],
                ["bytes of an event in Kafka", f"{found.topic_bytes / events:.0f}"],
                ["bytes of a document in Elasticsearch", f"{found.index_bytes / events:.0f}"],
            ],
        ),
    )


def _reading(events: int, seconds: Mapping[str, Sequence[float]]) -> Result:
    late = {name: percentile(turns, 0.95) for name, turns in seconds.items()}
    first = late[reading.FIRST] / late[reading.RAW]
    deep = late[reading.DEEP] / late[reading.FIRST]
    return Result(
        "B10",
        "reading /analysis",
        f"{events:,} documents, {len(seconds[reading.RAW])} requests of each kind in turns. Raw: a "
        "search for the same documents, sent to Elasticsearch.",
        [
            Figure("p95, page to raw search", "<= 1.5", f"{first:.2f}", first <= 1.5),
            Figure("p95, deep page to first", "<= 1.3", f"{deep:.2f}", deep <= 1.3),
        ],
        Table(
            ("", "p50 ms", "p95 ms"),
            [
                [name, f"{1000 * percentile(turns, 0.5):.1f}", f"{1000 * late[name]:.1f}"]
                for name, turns in seconds.items()
            ],
        ),
    )


def _emitter(
    _folder: Path, options: argparse.Namespace, console: Console, _chosen: Sequence[str]
) -> Iterator[Result]:
    with emitter.brokers() as brokers:
        console.print("timing the announcement of requests")
        added = emitter.added_milliseconds(brokers, options.rounds)
        console.print("counting requests per CPU-second")
        served = emitter.requests_per_cpu_second(brokers, options.rounds)
    ratios = {
        name: Spread.of([a / b for a, b in zip(turns, served[emitter.WITHOUT], strict=True)])
        for name, turns in served.items()
    }
    worst = {
        share: max(percentile(each, share) for each in added.values()) for share in (0.99, 0.999)
    }
    served_up = ratios["up"].median
    served_dead = min(ratios[name].median for name in emitter.DEAD)
    yield Result(
        "B6",
        "the emitter",
        f"Added: {options.rounds * emitter.REQUESTS:,} requests at {emitter.REQUESTS_PER_SECOND} a "
        "second for each state of the broker; slow: it answers after "
        f"{emitter.SLOW_MILLISECONDS} ms; silent: it accepts connections and says nothing.",
        [
            Figure(
                "requests per CPU-second of without",
                ">= 0.75",
                f"{ratios['up']:.2f}",
                served_up >= 0.75,
            ),
            Figure(
                "the same, with the broker down or silent",
                "as when it is up",
                f"{served_dead:.2f}",
                served_dead >= served_up - 0.05,
            ),
            Figure(
                "added p99, any state", "<= 0.5 ms", f"{worst[0.99]:.2f} ms", worst[0.99] <= 0.5
            ),
            Figure(
                "added p99.9, any state", "<= 1 ms", f"{worst[0.999]:.2f} ms", worst[0.999] <= 1
            ),
        ],
        Table(
            ("broker", "requests per CPU-second", "added p50 ms", "p99 ms", "p99.9 ms"),
            [
                [name, f"{Spread.of(turns):,.0f}"]
                + [
                    f"{percentile(added[name], share):.3f}" if name in added else ""
                    for share in (0.5, 0.99, 0.999)
                ]
                for name, turns in served.items()
            ],
        ),
    )


def _month(
    _folder: Path, options: argparse.Namespace, console: Console, _chosen: Sequence[str]
) -> Iterator[Result]:
    events = options.events // 100
    with _stack(console, **month.KEEP) as stack:
        console.print(f"{month.DAYS} days of {events:,} events")
        days = month.Month(stack, events)
        states: list[month.State] = []
        for state in days.days():
            states.append(state)
            console.print(f"day {len(states)}: {state.documents:,} documents")
        missing = days.missing()
    ratio = states[-1].to(states[month.FULL - 1])
    kept = ", ".join(f"KP_{name.upper()}={days}" for name, days in month.KEEP.items())
    yield Result(
        "B13",
        "a month of steady traffic",
        f"Each day {events:,} accesses, {month.BAD_MESSAGES} bad messages, {month.RUNS} runs in "
        f"Dagster's history (a real day has about 100) and {month.REPORTS} reports of a sensor, "
        f"with the times of that day; then retention of {month.RETENTION_DAYS} days, and "
        f"housekeeping with {kept}. Notes: positions, leases, notes of indices.",
        [
            Figure(
                f"state of day {month.DAYS} to that of day {month.FULL}, the worst number",
                "<= 1.1", f"{ratio:.2f}", ratio <= 1.1,
            ),
            *(
                Figure(name, "0", str(count), count == 0)
                for name, count in (
                    (f"events of the last {month.KEEP['log_retention_days']} days not found",
                     missing.events),
                    ("events found twice", missing.doubled),
                    ("dead letters missing whose message the topic holds", missing.dead_letters),
                    ("positions that are not at the end", missing.positions),
                )
            ),
        ],
        Table(
            ("day", *(each.name.replace("_bytes", " MB").replace("_", " ")
                      for each in fields(month.State))),
            month.rows(states, [1, 7, 14, month.FULL, 30, month.DAYS]),
        ),
    )  # fmt: skip


def _dagsters(cpu: Mapping[str, float]) -> float:
    return sum(used for name, used in cpu.items() if name.startswith("dagster"))


STAGES = ("request to event s", "event to rows s", "rows to found s")
PERCENTILES = (0.5, 0.95, 0.99)
RATES = (1, 10, 100, 1_000)
STORAGE_RATES = RATES[:3]
SQLITE, POSTGRES = "SQLite", "PostgreSQL"
TYPICAL_RATE = 10
IDLE_SECONDS = 60.0
WARM_SECONDS = 120.0
WARM_SLICES = 5
RIVALS = {"B1": RAW, "B3": STRAIGHT}
GROUPS: dict[str, Callable[..., Iterator[Result]]] = {
    "B1": _throughput,
    "B2": _throughput,
    "B3": _throughput,
    "B4": _latency,
    "B5": _latency,
    "B6": _emitter,
    "B7": _flatness,
    "B8": _dimensions,
    "B9": _backlog,
    "B10": _backlog,
    "B11": _runs,
    "B12": _storages,
    "B13": _month,
}


if __name__ == "__main__":
    sys.exit(main())
