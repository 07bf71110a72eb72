"""The manifest, checksums and unpacking, without a network."""

import hashlib
import re
import tarfile
from pathlib import Path

import pytest
from rich.console import Console

from kp_platform.local import artifacts
from kp_platform.local.artifacts import Artifact, Distribution
from kp_platform.local.errors import StackError


def test_the_manifest_names_every_server_with_exact_versions_and_hashes() -> None:
    servers = artifacts.manifest()
    assert set(servers) == {"kafka", "mysql", "elasticsearch", "trino"}
    for server in servers.values():
        for artifact in server.artifacts:
            assert re.fullmatch(
                r"[\w.-]+:[\w.-]+:\d[\w.-]*:(jar|zip|tar\.gz)", artifact.coordinates
            )
            assert re.fullmatch(r"[0-9a-f]{64}", artifact.sha256)


def test_the_manifest_names_no_registry() -> None:
    assert "://" not in artifacts.MANIFEST.read_text(encoding="utf-8")


def test_no_jar_of_kafka_has_two_versions() -> None:
    jars = [each.coordinates.split(":")[:2] for each in artifacts.manifest()["kafka"].artifacts]
    assert len(jars) == len({tuple(jar) for jar in jars})


@pytest.mark.parametrize(
    ("coordinates", "size", "sha256"),
    [
        ("group:name:1.0", 1, "0" * 64),  # packaging is missing
        ("group:name:1.0:jar", 0, "0" * 64),  # an empty file is no artifact
        ("group:name:1.0:jar", 1, "0" * 63),  # not a sha256
    ],
)
def test_an_invalid_manifest_entry_is_rejected(coordinates: str, size: int, sha256: str) -> None:
    with pytest.raises(ValueError, match="group:name:1.0"):
        Artifact(coordinates, size, sha256)


def test_an_unpacked_server_is_not_missing_and_needs_no_network(tmp_path: Path) -> None:
    for server in artifacts.manifest().values():
        server.folder(tmp_path).mkdir()
    assert artifacts.missing(["kafka", "trino", "redis"], tmp_path) == []
    artifacts.ensure(["kafka", "trino", "redis"], tmp_path, Console())


def test_a_server_that_is_not_from_maven_is_never_missing(tmp_path: Path) -> None:
    assert artifacts.missing(["redis", "emitter"], tmp_path) == []


def test_an_artifact_with_another_hash_is_removed_and_reported(tmp_path: Path) -> None:
    repository = tmp_path / "repository"
    file = _publish(repository, b"not what was published")
    artifact = Artifact("group:name:1.0:jar", 22, "0" * 64)
    message = "group:name:1.0:jar has sha256 .* run `kp up` to download it again"
    with pytest.raises(StackError, match=message) as error:
        artifacts.verify(artifact, file)
    assert hashlib.sha256(b"not what was published").hexdigest() in str(error.value)
    assert not file.exists()


def test_an_artifact_with_its_hash_is_kept(tmp_path: Path) -> None:
    file = _publish(tmp_path, b"published")
    artifacts.verify(
        Artifact("group:name:1.0:jar", 9, hashlib.sha256(b"published").hexdigest()), file
    )
    assert file.read_bytes() == b"published"


def test_only_the_trino_plugins_of_our_catalogs_are_kept(tmp_path: Path) -> None:
    source = tmp_path / "trino-server-1"
    for name in ("kafka", "mysql", "redis", "hive"):
        (source / "plugin" / name).mkdir(parents=True)
    shared = source / "plugin" / "hive" / "shared.jar"
    shared.write_bytes(b"bytes")
    (source / "plugin" / "kafka" / "shared.jar").hardlink_to(shared)
    archive = tmp_path / "trino.tar.gz"
    with tarfile.open(archive, "w:gz") as tar:
        tar.add(shared, "trino-server-1/plugin/hive/shared.jar")
        tar.add(source, "trino-server-1")
    into = tmp_path / "into"
    into.mkdir()
    artifacts.unpack(Distribution("trino", "1", ()), [archive], into)
    assert {path.name for path in (into / "plugin").iterdir()} == {"kafka", "mysql", "redis"}
    assert (into / "plugin" / "kafka" / "shared.jar").read_bytes() == b"bytes"


def test_the_error_for_a_broken_archive_names_the_setting(tmp_path: Path) -> None:
    archive = tmp_path / "trino.tar.gz"
    archive.write_bytes(b"no archive")
    with pytest.raises(StackError, match=r"cannot unpack trino.tar.gz in KP_CACHE: "):
        artifacts.unpack(Distribution("trino", "1", ()), [archive], tmp_path)


def _publish(folder: Path, content: bytes) -> Path:
    folder.mkdir(exist_ok=True)
    file = folder / "name-1.0.jar"
    file.write_bytes(content)
    return file
