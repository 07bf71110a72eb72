"""What importing the contract and the emitter library loads; both are used without the site."""

import subprocess
import sys

import pytest

from kp_platform_tests.stack import ROOT

# What neither may load: the site, the platform, and packages that only these need.
EXCLUDED = ("web_emitter.site", "kp_platform", "starlette", "jinja2", "elasticsearch", "dagster")
LIBRARY = ("identity", "metrics", "middleware", "producer", "settings")


def loaded(*modules: str) -> set[str]:
    """The names in `sys.modules` of a new process that imports the modules."""
    program = f"import sys, {', '.join(modules)}; print(*sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=ROOT,
        env={},
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    return set(done.stdout.split())


@pytest.mark.parametrize(
    ("modules", "excluded"),
    [
        (
            ["web_emitter.contract"],
            (*EXCLUDED, "web_emitter.emitter", "confluent_kafka", "orjson", "prometheus_client"),
        ),
        ([f"web_emitter.emitter.{name}" for name in LIBRARY], EXCLUDED),
    ],
    ids=["contract", "emitter library"],
)
def test_a_module_for_use_alone_loads_nothing_else(
    modules: list[str], excluded: tuple[str, ...]
) -> None:
    assert loaded(*modules) & set(excluded) == set()
