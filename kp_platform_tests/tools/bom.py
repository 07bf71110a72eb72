"""The bill of materials: all installed and vendored components, with exact version and hashes.

    python -m kp_platform_tests.tools.bom > bom.cdx.json

CycloneDX 1.6 (https://cyclonedx.org/docs/1.6/json/), generated from the files that the set-up
reads: the locked requirements, the manifest of the servers, and the list of vendored files. `make
audit` writes it and validates it against the schema.
"""

import json
import re
import tomllib
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

from kp_platform.local.artifacts import manifest
from kp_platform_tests.stack import ROOT

REQUIREMENTS = ("requirements.txt", "requirements-dev.txt")
VENDORED = ROOT / "web_emitter" / "site" / "static" / "vendor" / "README.md"
_PINNED = re.compile(
    r"^(?P<name>[\w.-]+)==(?P<version>[^\s;\\]+)(?P<rest>(?:[^\n]*\\\n)*[^\n]*)", re.M
)
_HASH = re.compile(r"--hash=sha256:([0-9a-f]{64})")
_ROW = re.compile(
    r"^\| (\S+) \| npm `([^`]+)`[^|]*\| (\S+) \| (\S+)[^|]*\| ([0-9a-f]{64}) \|$", re.M
)

Component = dict[str, Any]


def bom(now: datetime) -> dict[str, Any]:
    """The document, with a component for each package, artifact and file."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    components = {each["bom-ref"]: each for each in _components()}
    return {
        "$schema": "http://cyclonedx.org/schema/bom-1.6.schema.json",
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "version": 1,
        "metadata": {
            "timestamp": now.isoformat(timespec="seconds"),
            "component": {
                "type": "application",
                "bom-ref": project["name"],
                "name": project["name"],
                "version": project["version"],
                "licenses": [{"license": {"id": project["license"]}}],
            },
        },
        "components": [components[ref] for ref in sorted(components)],
    }


def _components() -> Iterator[Component]:
    needed = set[str]()
    for file in REQUIREMENTS:
        for found in _PINNED.finditer((ROOT / file).read_text()):
            purl = f"pkg:pypi/{found['name'].lower().replace('_', '-')}@{found['version']}"
            scope = "required" if file == "requirements.txt" or purl in needed else "excluded"
            needed |= {purl} if scope == "required" else set()
            hashes = _HASH.findall(found["rest"])  # one for each file of the version
            yield _component(found["name"], found["version"], purl, hashes, scope)
    for server in manifest().values():
        for artifact in server.artifacts:
            group, name, version, packaging = artifact.coordinates.split(":")
            purl = f"pkg:maven/{group}/{name}@{version}?type={packaging}"
            yield {"group": group} | _component(name, version, purl, [artifact.sha256])
    for file, package, version, licence, sha256 in _ROW.findall(VENDORED.read_text()):
        purl = f"pkg:npm/{package.replace('@', '%40')}@{version}#{file}"
        vendored = _component(package, version, purl, [sha256])
        yield vendored | {"licenses": [{"license": {"id": licence}}]}


def _component(
    name: str, version: str, purl: str, hashes: list[str], scope: str = "required"
) -> Component:
    return {
        "type": "library",
        "bom-ref": purl,
        "name": name,
        "version": version,
        "purl": purl,
        "scope": scope,
        "hashes": [{"alg": "SHA-256", "content": each} for each in hashes],
    }


if __name__ == "__main__":
    print(json.dumps(bom(datetime.now(UTC)), indent=1))
