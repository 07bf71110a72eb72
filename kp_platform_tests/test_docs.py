"""What the docs name exists: settings, commands, files; and no registry's host stands anywhere."""

import re
import subprocess
from pathlib import Path

import pytest
import typer

from kp_platform.cli import app
from kp_platform.settings import Settings
from kp_platform_tests.stack import ROOT
from web_emitter.settings import Settings as EmitterSettings

README = (ROOT / "README.md").read_text()
DOCS = {
    str(path.relative_to(ROOT)): path.read_text()
    for path in [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted(ROOT.glob("docs/**/*.md"))]
}
CHECKLIST = re.compile(r"^\| (M\d+) \| .* \| (.*) \| `([\w./]+)::(\w+)` \|$", re.M)
TOY_FLOW = ROOT / "kp_platform_tests" / "toy_flow"
REGISTRIES = re.compile(r"\b(pypi|pythonhosted|npmjs|maven\.org|maven\.apache|deb\.debian)\b", re.I)


def settings_names() -> set[str]:
    fields = [*Settings.model_fields, *EmitterSettings.model_fields]
    return {f"KP_{name.upper()}" for name in fields}


@pytest.mark.parametrize("name", DOCS)
def test_every_setting_that_is_named_exists(name: str) -> None:
    assert set(re.findall(r"\bKP_[A-Z_]+[A-Z]", DOCS[name])) <= settings_names()


def test_the_defaults_in_the_readme_are_the_defaults() -> None:
    settings = Settings()
    rows = dict(re.findall(r"^\| `(KP_[A-Z_]+)` \| `([^`]+)` \|", README, re.M))
    assert len(rows) >= 8
    for name, shown in rows.items():
        value = getattr(settings, name.removeprefix("KP_").lower())
        text = value.get_secret_value() if hasattr(value, "get_secret_value") else str(value)
        assert text.removesuffix(".0").removeprefix(f"{Path.cwd()}/") == shown, name


def test_every_command_is_in_the_readme_and_every_one_there_exists() -> None:
    group = typer.main.get_command(app)
    assert isinstance(group, typer.core.TyperGroup)
    assert set(re.findall(r"^\| `kp ([a-z]+)`", README, re.M)) == set(group.commands)


@pytest.mark.parametrize("name", DOCS)
def test_every_file_that_is_linked_exists(name: str) -> None:
    links = re.findall(r"\]\(([^)#:]+)\)", DOCS[name])
    folder = (ROOT / name).parent
    assert [link for link in links if not (folder / link).exists()] == []


def test_every_make_target_in_the_docs_exists() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.M))
    for text in DOCS.values():
        assert set(re.findall(r"make ([a-z]+)\b(?=[`\n])", text)) <= targets


def test_every_line_of_the_mission_has_its_files_and_a_test_that_exists() -> None:
    rows = CHECKLIST.findall(DOCS["docs/checklist.md"])
    assert [line for line, *_ in rows] == [f"M{number}" for number in range(1, 27)]
    for line, files, path, test in rows:
        named = re.findall(r"`([\w./-]+)`", files)
        assert named, line
        assert [each for each in named if not (ROOT / each).is_file()] == [], line
        assert re.search(rf"def {test}\(", (ROOT / path).read_text()), f"{line}: {path}::{test}"


def test_the_how_to_shows_the_files_of_the_flow_that_the_tests_run() -> None:
    how_to = DOCS["docs/how-to/add-a-flow.md"]
    query = (TOY_FLOW / "sql" / "orders.sql").read_text()
    assert (TOY_FLOW / "kafka" / "order.json").read_text() in how_to
    assert query[query.index("WITH slice") :] in how_to
    [value] = re.findall(r"^ORDERS = Flow\(.*?^\)", how_to, re.M | re.S)
    test = (ROOT / "kp_platform_tests" / "integration" / "test_toy_flow.py").read_text()
    assert value[:-1] in test  # which names its folder besides


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
