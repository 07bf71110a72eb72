"""What the docs name exists: settings and their defaults, commands, make targets, names in Dagster,
pages, metrics, figures, files; and no registry's host stands anywhere."""

import functools
import importlib.util
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import typer
from starlette.routing import Match

from kp_platform.cli.main import app as command_line
from kp_platform.definitions import build_definitions
from kp_platform.flows.builtin import FLOWS
from kp_platform.local.settings import LocalSettings
from kp_platform.settings import environment
from kp_platform_tests.stack import ROOT
from kp_platform_tests.tools.reference_docs import COLLECTORS, metric_name
from kp_platform_tests.toy_flow.flow import ORDERS
from web_emitter.site.app import create_app
from web_emitter.site.settings import SiteSettings as EmitterSettings

DOCS = {
    str(path.relative_to(ROOT)): path.read_text()
    for path in [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted(ROOT.glob("docs/**/*.md"))]
}
every_page = pytest.mark.parametrize("name", DOCS)
CHECKLIST = re.compile(r"^\| (M\d+) \| .* \| (.*) \| `([\w./]+)::(\w+)` \|$", re.M)
TOY_FLOW = ROOT / "kp_platform_tests" / "toy_flow" / "orders"
REGISTRIES = re.compile(r"\b(pypi|pythonhosted|npmjs|maven\.org|maven\.apache|deb\.debian)\b", re.I)
FENCES = re.compile(r"^```.*?\n(.*?)^```", re.M | re.S)
DEFAULTS = re.compile(r"^\| `(KP_[A-Z_]+)` \| `([^`]+)` \|.*$", re.M)
COMMAND = re.compile(r"(?:^|[\s/(])kp ([^|;&)`]*)")
# The docs visit these, which are no pages and are accesses all the same.
VISITS = "/hello"


def code_of(page: str) -> list[str]:
    """The lines of its blocks, and what stands between backticks elsewhere."""
    lines = [line for block in FENCES.findall(page) for line in block.splitlines()]
    return lines + re.findall(r"`([^`]+)`", FENCES.sub("", page))


def settings_names() -> set[str]:
    """What the platform and the emitter read, and what Trino reads beside that."""
    fields = [*LocalSettings.model_fields, *EmitterSettings.model_fields]
    files = [path.read_text() for path in (ROOT / "presto_etc").glob("**/*.properties")]
    of_trino = re.findall(r"\$\{(?:ENV|env):(KP_\w+)\}", "\n".join(files))
    return {f"KP_{name.upper()}" for name in fields}.union(of_trino)


@every_page
def test_every_setting_that_is_named_exists(name: str) -> None:
    assert set(re.findall(r"\bKP_[A-Z_]+[A-Z]", DOCS[name])) <= settings_names()


def effective() -> object:
    return environment(LocalSettings(), secrets=True), EmitterSettings()


@every_page
def test_a_default_that_is_shown_is_the_default(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    defaults = effective()
    for setting, shown in DEFAULTS.findall(DOCS[name]):
        monkeypatch.setenv(setting, shown)
        assert effective() == defaults, setting


def test_the_pages_that_show_defaults_are_read() -> None:
    shown = {name: len(DEFAULTS.findall(DOCS[name])) for name in DOCS}
    assert shown["docs/how-to/tune.md"] > 10
    assert shown["docs/how-to/own-servers.md"] > 5


@functools.cache
def commands() -> Any:
    return typer.main.get_command(command_line)


def unknown_in(said: str) -> str:
    """The first word of a call of `kp` that `kp` does not know, command or option; empty: none."""
    command = commands()
    for word in said.split():
        if inner := getattr(command, "commands", None):
            if not word.isalpha() or not word.islower():
                return ""  # a place-holder
            if word not in inner:
                return word
            command = inner[word]
        elif word.startswith("--"):
            options = {option for parameter in command.params for option in parameter.opts}
            if word not in options | {"--help"}:
                return word
    return ""


@every_page
def test_every_command_that_is_named_exists_with_its_options(name: str) -> None:
    calls = [call for line in code_of(DOCS[name]) for call in COMMAND.findall(line)]
    assert {call: unknown for call in calls if (unknown := unknown_in(call))} == {}


def test_a_command_that_does_not_exist_is_found() -> None:
    calls = ("nonsense", "dlq list --fast", "dlq lost", "dlq list --json", "logs SERVICE")
    assert [unknown_in(call) for call in calls] == ["nonsense", "--fast", "lost", "", ""]


def test_every_command_is_listed() -> None:
    listed = DOCS["README.md"] + DOCS.get("docs/reference/cli.md", "")
    assert [each for each in commands().commands if f"`kp {each}`" not in listed] == []


@every_page
def test_every_make_target_that_is_named_exists(name: str) -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.M))
    named = (re.findall(r"(?:^|\s)make ([a-z-]+)", line) for line in code_of(DOCS[name]))
    assert {each for found in named for each in found} <= targets


@functools.cache
def dagster_names() -> dict[str, set[str]]:
    """By kind; the flow that the docs add is among them."""
    definitions = build_definitions(flows=[*FLOWS, ORDERS])
    graph = definitions.resolve_asset_graph()
    return {
        "asset": {key.to_user_string() for key in graph.get_all_asset_keys()},
        "check": {key.name for key in graph.asset_check_keys},
        "job": {job.name for job in definitions.jobs or ()},
        "sensor": {sensor.name for sensor in definitions.sensors or ()},
    }


@every_page
def test_every_asset_check_job_and_sensor_that_is_named_exists(name: str) -> None:
    kinds = "asset|check|job|sensor"
    said = re.findall(rf"\b({kinds})s?\s`([\w./]+)`", DOCS[name])
    said += re.findall(rf"127\.0\.0\.1:18030\S*?/({kinds})s/([\w./]*\w)", DOCS[name])
    assert [(kind, each) for kind, each in said if each not in dagster_names()[kind]] == []


@functools.cache
def is_answered(path: str) -> bool:
    """Whether the emitter has a page at this path."""
    scope = {"type": "http", "method": "GET", "path": path, "root_path": "", "headers": []}
    routes = create_app(EmitterSettings()).routes
    return any(route.matches(scope)[0] != Match.NONE for route in routes)


@every_page
def test_every_page_of_the_emitter_that_is_named_exists(name: str) -> None:
    text = DEFAULTS.sub("", DOCS[name])
    said = re.findall(r"`(/[a-z][\w./{}-]*)`", text)
    said += re.findall(r"127\.0\.0\.1:18[01]00(/(?:[\w./-]*\w)?)", text)
    assert [each for each in said if not each.startswith(VISITS) and not is_answered(each)] == []


@functools.cache
def metrics_names() -> set[str]:
    return {metric_name(each) for made in COLLECTORS.values() for each in made().collect()}


@every_page
def test_every_metric_that_is_named_exists(name: str) -> None:
    assert set(re.findall(r"\bkp_(?:emitter|pipeline)_\w+", DOCS[name])) <= metrics_names()


def tables_of(page: str) -> dict[str, set[str]]:
    """The rows of its tables, by their header; those of equal headers together."""
    tables: dict[str, set[str]] = {}
    for header, rows in re.findall(r"^(\|.*\|)\n\|[ :|-]+\|\n((?:\|.*\|\n)*)", page, re.M):
        tables.setdefault(header, set()).update(rows.splitlines())
    return tables


@every_page
def test_every_figure_that_is_shown_is_one_of_the_performance_page(name: str) -> None:
    measured = tables_of(DOCS["docs/performance.md"])
    for header, rows in tables_of(DOCS[name]).items():
        if header in measured:
            assert rows <= measured[header]


@every_page
def test_every_file_and_heading_that_is_linked_exists(name: str) -> None:
    shown = re.sub(r"<!--.*?-->", "", DOCS[name], flags=re.S)
    for link in re.findall(r"\]\(([^):]+)\)", shown):
        file, _, anchor = link.partition("#")
        target = (ROOT / name).parent / file if file else ROOT / name
        assert target.exists(), link
        if anchor:
            assert anchor in anchors_of(target.read_text()), link


def anchors_of(page: str) -> set[str]:
    """As the usual renderers make them of headings."""
    headings = re.findall(r"^#+ (.*)$", FENCES.sub("", page), re.M)
    return {re.sub(r"[^\w -]", "", each.lower()).replace(" ", "-") for each in headings}


def test_every_line_of_the_mission_has_its_files_and_a_test_that_exists() -> None:
    rows = CHECKLIST.findall(DOCS["docs/checklist.md"])
    assert [line for line, *_ in rows] == [f"M{number}" for number in range(1, 27)]
    for line, files, path, test in rows:
        named = re.findall(r"`([\w./-]+)`", files)
        assert named, line
        assert [each for each in named if not (ROOT / each).is_file()] == [], line
        assert re.search(rf"def {test}\(", (ROOT / path).read_text()), f"{line}: {path}::{test}"


def load(path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A module that is not the one of its name."""
    spec = importlib.util.spec_from_file_location("pasted_flows", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, spec.name, module)  # where dataclasses look
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("name", ["docs/how-to/add-a-flow.md", "docs/tutorial.md"])
def test_a_page_that_adds_a_flow_shows_the_files_of_the_one_that_the_tests_run(name: str) -> None:
    query = (TOY_FLOW / "query.sql").read_text()
    assert (TOY_FLOW / "table.json").read_text() in DOCS[name]
    assert query[query.index("WITH slice") :] in DOCS[name]
    [value] = re.findall(r"^ORDERS = Flow\(.*?^\)", DOCS[name], re.M | re.S)
    assert value[:-1] in (TOY_FLOW.parent / "flow.py").read_text()


def test_the_flow_of_the_tutorial_is_added_by_pasting(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its blocks that write files make those of the tests, and a module that declares the flow."""
    for folder in ("presto_etc/kafka", "kp_platform/flows"):
        (tmp_path / folder).mkdir(parents=True)
    flows = tmp_path / "kp_platform" / "flows" / "builtin.py"
    flows.write_text((ROOT / "kp_platform" / "flows" / "builtin.py").read_text())
    blocks = FENCES.findall(DOCS["docs/tutorial.md"])
    for block in blocks:
        if re.search(r"^cat >>? (presto_etc|kp_platform)/", block, re.M):
            script = block.replace("git --no-pager diff", "true")
            subprocess.run(["sh", "-eu", "-c", script], cwd=tmp_path, check=True)
    for made, ours in (
        ("presto_etc/kafka/order.json", "table.json"),
        ("kp_platform/flows/orders/query.sql", "query.sql"),
        ("kp_platform/flows/orders/mapping.json", "mapping.json"),
    ):
        assert (tmp_path / made).read_text() == (TOY_FLOW / ours).read_text()
    declared = load(flows, monkeypatch)
    assert [flow.name for flow in declared.FLOWS] == [*(flow.name for flow in FLOWS), "orders"]
    assert declared.ORDERS.query.exists()


def test_no_file_names_the_host_of_a_package_registry() -> None:
    files = subprocess.run(
        ["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout.split("\n")
    found = []
    for name in filter(None, files):
        path = ROOT / name
        if path.suffix in {".md", ".py", ".txt", ".toml", ".json", ".sh", ".yaml", ""}:
            for line in path.read_text().splitlines():
                if re.search(r"https?://", line) and REGISTRIES.search(line):
                    found.append(f"{name}: {line[:80]}")
    assert found == []
