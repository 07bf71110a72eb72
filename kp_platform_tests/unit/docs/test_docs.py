"""The documentation matches the code: settings and defaults, commands, make targets, Dagster names,
pages, metrics, figures and files exist; no file names the host of a package registry."""

import functools
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import typer
from starlette.routing import Match

from kp_platform.cli.main import app as command_line
from kp_platform.definitions import build_definitions
from kp_platform.flows.builtin import FLOWS
from kp_platform.flows.loading import load_flow, load_flows
from kp_platform.local.settings import LocalSettings
from kp_platform.settings import environment
from kp_platform_tests.stack import ROOT
from kp_platform_tests.tools.reference_docs import COLLECTORS, metric_name
from web_emitter.site.app import create_app
from web_emitter.site.settings import SiteSettings

DOCS = {
    str(path.relative_to(ROOT)): path.read_text()
    for path in [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted(ROOT.glob("docs/**/*.md"))]
}
every_page = pytest.mark.parametrize("name", DOCS)
CHECKLIST = re.compile(r"^\| (M\d+) \| .* \| (.*) \| `([\w./]+)::(\w+)` \|$", re.M)
TOY_FLOW = ROOT / "kp_platform_tests" / "toy_flow" / "orders"
ORDERS = load_flow(TOY_FLOW)
REGISTRIES = re.compile(r"\b(pypi|pythonhosted|npmjs|maven\.org|maven\.apache|deb\.debian)\b", re.I)
FENCES = re.compile(r"^```.*?\n(.*?)^```", re.M | re.S)
DEFAULTS = re.compile(r"^\| `(KP_[A-Z_]+)` \| `([^`]+)` \|.*$", re.M)
COMMAND = re.compile(r"(?:^|[\s/(])kp ([^|;&)`]*)")
# The docs visit these paths, which are not pages; a request to them is an access nevertheless.
VISITS = "/hello"


def code_of(page: str) -> list[str]:
    """The lines of its code blocks, and its inline code."""
    lines = [line for block in FENCES.findall(page) for line in block.splitlines()]
    return lines + re.findall(r"`([^`]+)`", FENCES.sub("", page))


def settings_names() -> set[str]:
    """The settings of the platform and the emitter, and the variables in Trino's configuration."""
    fields = [*LocalSettings.model_fields, *SiteSettings.model_fields]
    files = [path.read_text() for path in (ROOT / "presto_etc").glob("**/*.properties")]
    in_trino = re.findall(r"\$\{(?:ENV|env):(KP_\w+)\}", "\n".join(files))
    return {f"KP_{name.upper()}" for name in fields}.union(in_trino)


@every_page
def test_every_setting_that_is_named_exists(name: str) -> None:
    assert set(re.findall(r"\bKP_[A-Z_]+[A-Z]", DOCS[name])) <= settings_names()


def effective() -> object:
    return environment(LocalSettings(), secrets=True), SiteSettings()


@every_page
def test_a_default_that_is_shown_is_the_default(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    defaults = effective()
    for setting, shown in DEFAULTS.findall(DOCS[name]):
        monkeypatch.setenv(setting, shown)
        assert effective() == defaults, setting


def test_the_pages_that_show_defaults_are_checked() -> None:
    shown = {name: len(DEFAULTS.findall(DOCS[name])) for name in DOCS}
    assert shown["docs/how-to/tuning.md"] > 10
    assert shown["docs/how-to/own-servers.md"] > 5


@functools.cache
def commands() -> Any:
    return typer.main.get_command(command_line)


def unknown_in(call: str) -> str:
    """The first command or option of a call of `kp` that does not exist; empty if all exist."""
    command = commands()
    for word in call.split():
        if inner := getattr(command, "commands", None):
            if not word.isalpha() or not word.islower():
                return ""  # a placeholder
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


def test_a_command_that_does_not_exist_is_detected() -> None:
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
    """Names by kind, including those of the flow that the documentation adds."""
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
    names = re.findall(rf"\b({kinds})s?\s`([\w./]+)`", DOCS[name])
    names += re.findall(rf"127\.0\.0\.1:18030\S*?/({kinds})s/([\w./]*\w)", DOCS[name])
    assert [(kind, each) for kind, each in names if each not in dagster_names()[kind]] == []


@functools.cache
def is_a_page(path: str) -> bool:
    """Whether the emitter has a page at this path."""
    scope = {"type": "http", "method": "GET", "path": path, "root_path": "", "headers": []}
    routes = create_app(SiteSettings()).routes
    return any(route.matches(scope)[0] != Match.NONE for route in routes)


@every_page
def test_every_page_of_the_emitter_that_is_named_exists(name: str) -> None:
    text = DEFAULTS.sub("", DOCS[name])
    paths = re.findall(r"`(/[a-z][\w./{}-]*)`", text)
    paths += re.findall(r"127\.0\.0\.1:18[01]00(/(?:[\w./-]*\w)?)", text)
    assert [each for each in paths if not each.startswith(VISITS) and not is_a_page(each)] == []


@functools.cache
def metrics_names() -> set[str]:
    return {metric_name(each) for made in COLLECTORS.values() for each in made().collect()}


@every_page
def test_every_metric_that_is_named_exists(name: str) -> None:
    assert set(re.findall(r"\bkp_(?:emitter|indexer)_\w+", DOCS[name])) <= metrics_names()


def tables_of(page: str) -> dict[str, set[str]]:
    """The rows of its tables by header; tables with the same header are merged."""
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
    """The anchors that Markdown renderers generate from headings."""
    headings = re.findall(r"^#+ (.*)$", FENCES.sub("", page), re.M)
    return {re.sub(r"[^\w -]", "", each.lower()).replace(" ", "-") for each in headings}


def test_every_requirement_has_files_and_a_test_that_exist() -> None:
    rows = CHECKLIST.findall(DOCS["docs/checklist.md"])
    assert [line for line, *_ in rows] == [f"M{number}" for number in range(1, 27)]
    for line, files, path, test in rows:
        named = re.findall(r"`([\w./-]+)`", files)
        assert named, line
        assert [each for each in named if not (ROOT / each).is_file()] == [], line
        assert re.search(rf"def {test}\(", (ROOT / path).read_text()), f"{line}: {path}::{test}"


@pytest.mark.parametrize("name", ["docs/how-to/add-a-flow.md", "docs/tutorial.md"])
def test_a_page_that_adds_a_flow_shows_the_files_of_the_one_that_the_tests_run(name: str) -> None:
    query = (TOY_FLOW / "query.sql").read_text()
    assert (TOY_FLOW / "flow.yaml").read_text() in DOCS[name]
    assert (TOY_FLOW / "table.json").read_text() in DOCS[name]
    assert query[query.index("WITH slice") :] in DOCS[name]


def test_the_flow_of_the_tutorial_is_added_by_pasting(tmp_path: Path) -> None:
    """Its blocks that write into the repository create the files of the tests' flow, which the
    platform then loads, and the link by which Trino finds its table."""
    flows = tmp_path / "kp_platform" / "flows"
    shutil.copytree(ROOT / "kp_platform" / "flows", flows)
    (tmp_path / "presto_etc" / "kafka").mkdir(parents=True)
    for block in FENCES.findall(DOCS["docs/tutorial.md"]):
        if re.search(r"^(?:cat >|mkdir|ln -s) \S*(?:kp_platform|presto_etc)/", block, re.M):
            subprocess.run(["sh", "-eu", "-c", block], cwd=tmp_path, check=True)
    created = {path.name: path.read_text() for path in (flows / "orders").iterdir()}
    assert created == {path.name: path.read_text() for path in TOY_FLOW.iterdir()}
    link = tmp_path / "presto_etc" / "kafka" / "order.json"
    assert link.is_symlink()
    assert link.resolve() == flows / "orders" / "table.json"
    names = {flow.name for flow in load_flows(flows)}
    assert names == {"orders", *(flow.name for flow in FLOWS)}


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
