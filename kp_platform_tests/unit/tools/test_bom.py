"""The bill of materials lists everything that the set-up installs, with version and hashes."""

import re
from datetime import UTC, datetime

from kp_platform.local.artifacts import manifest
from kp_platform_tests.stack import ROOT
from kp_platform_tests.tools.bom import REQUIREMENTS, bom

BOM = bom(datetime(2026, 1, 31, tzinfo=UTC))
COMPONENTS = {each["bom-ref"]: each for each in BOM["components"]}


def test_every_locked_package_is_a_component_with_all_its_hashes() -> None:
    for file in REQUIREMENTS:
        text = (ROOT / file).read_text()
        pinned = re.findall(r"^([\w.-]+)==([^\s;\\]+)", text, re.M)
        assert len(pinned) > 50
        for name, version in pinned:
            component = COMPONENTS[f"pkg:pypi/{name.lower().replace('_', '-')}@{version}"]
            assert component["hashes"]
        known = {h["content"] for each in COMPONENTS.values() for h in each["hashes"]}
        assert set(re.findall(r"sha256:([0-9a-f]{64})", text)) <= known


def test_only_packages_needed_at_run_time_are_required() -> None:
    scopes = {each["name"]: each["scope"] for each in COMPONENTS.values()}
    assert (scopes["dagster"], scopes["pytest"]) == ("required", "excluded")


def test_every_artifact_of_the_servers_is_a_component() -> None:
    for server in manifest().values():
        for artifact in server.artifacts:
            group, name, version, _ = artifact.coordinates.split(":")
            [found] = [
                each
                for each in COMPONENTS.values()
                if (each.get("group"), each["name"], each["version"]) == (group, name, version)
                and each["hashes"] == [{"alg": "SHA-256", "content": artifact.sha256}]
            ]
            assert found["scope"] == "required"


def test_the_vendored_files_are_components() -> None:
    vendored = [each for ref, each in COMPONENTS.items() if ref.startswith("pkg:npm/")]
    assert sorted(each["name"] for each in vendored) == ["@picocss/pico", "htmx.org", "htmx.org"]


def test_it_states_its_subject_and_time() -> None:
    assert (BOM["bomFormat"], BOM["specVersion"]) == ("CycloneDX", "1.6")
    assert BOM["metadata"]["timestamp"] == "2026-01-31T00:00:00+00:00"
    assert BOM["metadata"]["component"]["name"] == "kp_platform"
