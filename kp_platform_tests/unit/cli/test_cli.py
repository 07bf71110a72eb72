"""The command line: one line for every error, the right exit code, JSON that is only JSON."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from kp_platform.settings import Settings

QUIET_OFFSET = "45000"
"""Ports where nothing of ours ever listens."""
NO_POSTGRES = {"KP_DAGSTER_POSTGRES_URL": "postgresql://kp:hunter2@127.0.0.1:1/dagster"}


def kp(home: Path, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """`kp` in an empty folder, with no setting but these."""
    inherited = {name: os.environ[name] for name in os.environ if not name.startswith("KP_")}
    own = {"KP_HOME": str(home / "home"), "KP_PORT_OFFSET": QUIET_OFFSET, **variables}
    return subprocess.run(
        [sys.executable, "-m", "kp_platform", *arguments],
        env={**inherited, **own},
        cwd=home,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


@pytest.mark.parametrize(
    ("arguments", "variables", "code", "named"),
    [
        (["nonsense"], {}, 2, "nonsense"),
        (["up", "--fast"], {}, 2, "--fast"),
        (["logs"], {}, 2, "service"),
        (["logs", "nosuch"], {}, 2, "unknown service 'nosuch'"),
        (["logs", "kafka", "-n", "-1"], {}, 2, "--lines"),
        (["logs", "kafka"], {}, 1, "kafka has no log"),
        (["logs", "kafka"], {"KP_EXTERNAL": "kafka"}, 1, "KP_EXTERNAL"),
        (["demo", "--requests", "0"], {}, 2, "--requests"),
        (["config"], {"KP_MYSQL_PORT": "many"}, 2, "KP_MYSQL_PORT"),
        (["config"], {"KP_PORT_OFFSET": "-1"}, 2, "KP_PORT_OFFSET"),
        (["config"], {"KP_KAFKA_CONTROLLER_PORT": "70000"}, 2, "KP_KAFKA_CONTROLLER_PORT"),
        (["doctor"], {"KP_CACHE": "/dev/null"}, 1, "disk of KP_CACHE"),
        (["up"], {"KP_EXTERNAL": "oracle"}, 2, "KP_EXTERNAL: unknown service oracle"),
        (["up"], {"KP_TRINO_URL": "http://trino.example:8080"}, 1, "KP_TRINO_URL"),
        (["up"], {"KP_HOME": "/" + "a" * 100}, 1, "KP_HOME"),
        (["up"], NO_POSTGRES, 1, "Connection refused: start it, or mend KP_DAGSTER_POSTGRES_URL"),
        (["retention"], NO_POSTGRES, 1, "mend KP_DAGSTER_POSTGRES_URL"),
        (["retention"], {}, 1, "there is no Dagster in"),
        (["status"], {}, 1, "`kp up`"),
        (["doctor"], {"KP_ELASTICSEARCH_JAVA_HOME": "/nowhere"}, 1, "java"),
        (["seed"], {}, 1, "KP_MYSQL_HOST, KP_MYSQL_PORT, KP_MYSQL_USER, KP_MYSQL_PASSWORD"),
        (["demo"], {}, 1, "start the local servers with `kp up`"),
        (["reference"], {}, 2, "command"),
        (["reference", "set", "presto"], {}, 2, "url"),
        (["reference", "set", "x" * 86, "u"], {}, 2, "a name has 1 to 85 characters"),
        (["reference", "set", "x", "u"], {"KP_MYSQL_PORT": "many"}, 2, "kp: KP_MYSQL_PORT: "),
        (["reference", "set", "x", "u"], {}, 1, "MySQL does not answer at 127.0.0.1:63033"),
        (["dead"], {}, 2, "command"),
        (["dlq", "show"], {}, 2, "ID"),
        (["dlq", "list", "--limit", "0"], {}, 2, "--limit"),
        (["dlq", "list"], {}, 1, "Elasticsearch does not answer at http://127.0.0.1:63020"),
        (["dlq", "retry"], {}, 2, "by their ids, or by --flow and --reason"),
        (["dlq", "retry", "an-id", "--flow", "access_log"], {}, 2, "by their ids, or by"),
        (["dlq", "retry", "--flow", "typo"], {}, 2, "unknown flow 'typo'; known: access_log"),
        (["sizing"], {}, 2, "peak"),
        (["sizing", "0"], {}, 2, "0.001"),
        (["dlq", "discard", "--yes"], {}, 2, "by their ids, or by --flow and --reason"),
    ],
)
def test_an_error_is_one_line_on_stderr(
    tmp_path: Path, arguments: list[str], variables: dict[str, str], code: int, named: str
) -> None:
    done = kp(tmp_path, *arguments, **variables)
    assert done.returncode == code, done
    assert len(done.stderr.splitlines()) == 1, done.stderr
    assert named in done.stderr
    assert "hunter2" not in done.stderr


def test_a_file_of_settings_that_is_no_text_is_named(tmp_path: Path) -> None:
    (tmp_path / ".env").write_bytes(b"KP_MYSQL_USER=m\xfcller\n")
    done = kp(tmp_path, "config")
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1
    assert ".env are not UTF-8" in done.stderr


def test_without_a_command_the_help_is_shown(tmp_path: Path) -> None:
    done = kp(tmp_path)
    assert done.returncode == 0
    assert "Usage: kp" in done.stdout
    assert "Exit codes: 0 done, 1 failed, 2 wrong usage or setting" in done.stdout
    assert done.stderr == ""


def test_down_where_nothing_runs_is_done(tmp_path: Path) -> None:
    done = kp(tmp_path, "down")
    assert (done.returncode, done.stderr) == (0, "")
    assert "nothing runs" in done.stdout


def test_purge_leaves_a_folder_alone_that_is_not_a_stacks(tmp_path: Path) -> None:
    (tmp_path / "home").mkdir()
    done = kp(tmp_path, "down", "--purge")
    assert done.returncode == 1
    assert "was not made by kp" in done.stderr
    assert (tmp_path / "home").is_dir()


def test_config_masks_secrets_unless_they_are_asked_for(tmp_path: Path) -> None:
    secret = {"KP_MYSQL_PASSWORD": "s3cret", "KP_REDIS_URL": "redis://:s3cret@127.0.0.1:1/10"}
    masked = kp(tmp_path, "config", "--json", **secret)
    values = json.loads(masked.stdout)
    assert "s3cret" not in masked.stdout
    assert values["KP_MYSQL_PASSWORD"] == "********"
    assert values["KP_REDIS_URL"] == "redis://:********@127.0.0.1:1/10"
    shown = json.loads(kp(tmp_path, "config", "--json", "--show-secrets", **secret).stdout)
    assert shown["KP_MYSQL_PASSWORD"] == "s3cret"
    assert shown["KP_REDIS_URL"] == secret["KP_REDIS_URL"]


def test_config_names_every_setting(tmp_path: Path) -> None:
    values = json.loads(kp(tmp_path, "config", "--json").stdout)
    assert set(values) == {f"KP_{name.upper()}" for name in Settings.model_fields}


def test_status_and_doctor_are_json_also_when_they_fail(tmp_path: Path) -> None:
    services = json.loads(kp(tmp_path, "status", "--json").stdout)
    assert [each["ready"] for each in services] == [False] * 9
    done = kp(tmp_path, "doctor", "--json", KP_ELASTICSEARCH_JAVA_HOME="/nowhere")
    bad = [each["subject"] for each in json.loads(done.stdout) if not each["ok"]]
    assert (done.returncode, bad) == (1, ["java for elasticsearch"])


@pytest.mark.parametrize(
    "command", ["seed", "demo", "dlq list", "dlq show an-id", "dlq retry an-id --dry-run"]
)
def test_a_command_that_fails_leaves_nothing_where_its_json_would_be(
    tmp_path: Path, command: str
) -> None:
    done = kp(tmp_path, *command.split(), "--json")
    assert (done.returncode, done.stdout) == (1, "")
    assert len(done.stderr.splitlines()) == 1
