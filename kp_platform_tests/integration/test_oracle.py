"""The oracle detects faulty variants of the indexer, and shares no code with what it checks."""

from collections.abc import Iterator

import pytest

from kp_platform_tests.fault_injection.controls import CONTROLS, sound, verdict_of
from kp_platform_tests.fault_injection.harness import FaultHarness
from kp_platform_tests.fault_injection.ledger import Ledger
from kp_platform_tests.fault_injection.oracle import KINDS, Oracle
from kp_platform_tests.fault_injection.servers import Servers
from kp_platform_tests.stack import ROOT, Stack
from kp_platform_tests.unit.test_architecture import imported

EVENTS = 300
INDEPENDENT = ("oracle.py", "ledger.py", "servers.py")


@pytest.mark.parametrize("name", INDEPENDENT)
def test_the_oracle_imports_nothing_of_what_it_checks(name: str) -> None:
    names = set(imported(ROOT / "kp_platform_tests" / "fault_injection" / name))
    inside = {each for each in names if each.startswith("kp_platform_tests.")}
    allowed = {
        f"kp_platform_tests.fault_injection.{each.removesuffix('.py')}" for each in INDEPENDENT
    }
    assert {each.rpartition(".")[0] for each in inside} <= allowed
    assert not [each for each in names - inside if each.startswith(("kp_platform", "web_emitter"))]


@pytest.fixture
def servers(quiet_stack: Stack) -> Iterator[Servers]:
    """Only the test indexes, everything is indexed; afterwards its documents are deleted."""
    sound()
    servers = FaultHarness(quiet_stack.settings, quiet_stack.variables).servers
    yield servers
    with servers.search() as search:
        for hit in list(search.scan("log.index", {"prefix": {"uri": "/oracle/"}}, [])):
            search.request("DELETE", f"/{hit['_index']}/_doc/{hit['_id']}")


def test_the_oracle_finds_nothing_wrong_with_the_indexer(servers: Servers) -> None:
    verdict = verdict_of(Oracle(servers, Ledger(), alone=False), sound, EVENTS)
    assert {kind: verdict.counts[kind] for kind in KINDS} == dict.fromkeys(KINDS, 0), (
        verdict.examples
    )
    assert verdict.sizes["access_log documents"] == EVENTS
    assert verdict.sizes["access_log dead letters"] == 1


@pytest.mark.parametrize(
    ("control", "kind", "count"),
    [
        ("random ids", "duplicate", EVENTS),
        (
            "inner join",
            "lost",
            EVENTS // 3 + 1,
        ),  # accesses without a reference row, and the dead letter
        ("position first", "lost", EVENTS + 1),
    ],
)
def test_a_faulty_variant_is_detected(
    servers: Servers, control: str, kind: str, count: int
) -> None:
    verdict = verdict_of(Oracle(servers, Ledger(), alone=False), CONTROLS[control], EVENTS)
    assert verdict.counts[kind] == count
    assert len(verdict.examples[kind]) == 10
    assert not verdict.is_clean
