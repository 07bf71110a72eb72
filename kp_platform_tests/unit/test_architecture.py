"""The rules of the house that no linter knows: who imports whom, and what opens a module."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from kp_platform_tests.stack import ROOT

VENDORS = {"dagster", "elasticsearch", "confluent_kafka", "trino", "redis", "pymysql"}
FOLDERS = ("kp_platform", "web_emitter", "kp_platform_tests")
MODULES = sorted(path for folder in FOLDERS for path in (ROOT / folder).rglob("*.py"))


def imported(path: Path) -> Iterator[str]:
    """The full names that a module imports, at its top or inside its functions."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module


def importers(folder: str, *forbidden: str) -> list[str]:
    """Modules of a folder that import one of the packages, as `path: name`."""
    return [
        f"{path.relative_to(ROOT)}: {name}"
        for path in sorted((ROOT / folder).rglob("*.py"))
        for name in imported(path)
        if any(name == each or name.startswith(f"{each}.") for each in forbidden)
    ]


def test_the_pipeline_knows_neither_dagster_nor_a_client_nor_what_stands_above_it() -> None:
    above = [f"kp_platform.{name}" for name in ("resources", "assets", "sensors", "jobs", "local")]
    assert importers("kp_platform/pipeline", *VENDORS, *above) == []


def test_resources_know_nothing_of_assets_sensors_and_jobs() -> None:
    above = [f"kp_platform.{name}" for name in ("assets", "sensors", "jobs", "definitions")]
    assert importers("kp_platform/resources", *above) == []


def test_the_platform_and_the_emitter_do_not_know_each_other() -> None:
    contract = "web_emitter.contract"
    found = importers("kp_platform", "web_emitter")
    assert [each for each in found if not each.endswith((contract, ": web_emitter"))] == []
    assert importers("web_emitter", "kp_platform") == []


def test_pages_never_query_trino_nor_the_databases_behind_it() -> None:
    assert importers("web_emitter", "trino", "pymysql", "redis", "dagster") == []


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_module_says_what_it_is(path: Path) -> None:
    assert ast.get_docstring(ast.parse(path.read_text()))


def test_packages_hold_a_docstring_only() -> None:
    """So every symbol has one path to import it by."""
    packages = [path for path in MODULES if path.name == "__init__.py"]
    assert [str(path) for path in packages if len(ast.parse(path.read_text()).body) != 1] == []
