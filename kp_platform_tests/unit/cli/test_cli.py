"""The command line: one line for every error, the right exit code, JSON that is only JSON.

Most tests call `main` in this process, which takes a hundredth of the time of a new one.
"""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from stamina import instrumentation

from kp_platform.cli.main import main
from kp_platform.local.settings import LocalSettings
from kp_platform_tests.stack import ROOT

QUIET_OFFSET = "45000"
"""Ports on which no server listens."""
NO_POSTGRES = {"KP_DAGSTER_POSTGRES_URL": "postgresql://kp:hunter2@127.0.0.1:1/dagster"}
IMPORTS = """
import sys
from kp_platform.cli.main import main
try:
    main()
finally:
    print([name for name in sys.modules if name.split(".")[0] == "dagster"])
"""


@dataclass(frozen=True, slots=True)
class Result:
    """The exit code and the output of a command."""

    returncode: int
    stdout: str
    stderr: str


Kp = Callable[..., Result]


@pytest.fixture
def kp(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Iterator[Kp]:
    """`kp` in an empty folder, with these settings only."""
    environment, hooks = dict(os.environ), instrumentation.get_on_retry_hooks()

    def run(*arguments: str, **variables: str) -> Result:
        for name, value in own_variables(tmp_path, variables).items():
            monkeypatch.setenv(name, value)
        monkeypatch.setattr(sys, "argv", ["kp", *arguments])
        with pytest.raises(SystemExit) as ended:
            main()
        printed = capsys.readouterr()
        return Result(int(ended.value.code or 0), printed.out, printed.err)

    yield run
    os.environ.clear()
    os.environ.update(environment)
    instrumentation.set_on_retry_hooks(hooks)


def own_variables(folder: Path, variables: dict[str, str]) -> dict[str, str]:
    return {"KP_HOME": str(folder / "home"), "KP_PORT_OFFSET": QUIET_OFFSET, **variables}


def process(folder: Path, *command: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """A new Python process in an empty folder, with these settings only."""
    return subprocess.run(
        [sys.executable, *command],
        env={**os.environ, "PYTHONPATH": str(ROOT), **own_variables(folder, variables)},
        cwd=folder,
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
        (["up", "--cluster", "--secure"], {}, 2, "either a --cluster or --secure"),
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
        (["up"], NO_POSTGRES, 1, "refused: start it, or correct KP_DAGSTER_POSTGRES_URL"),
        (["retention"], NO_POSTGRES, 1, "correct KP_DAGSTER_POSTGRES_URL"),
        (["retention"], {}, 1, "there is no Dagster instance in"),
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
        (["replay"], {}, 2, "set a time with --from and --to, or --offsets"),
        (["replay", "--flow", "typo"], {}, 2, "unknown flow 'typo'; known: access_log"),
        (["sizing"], {}, 2, "peak"),
        (["sizing", "0"], {}, 2, "0.001"),
        (["dlq", "discard", "--yes"], {}, 2, "by their ids, or by --flow and --reason"),
    ],
)
def test_an_error_is_one_line_on_stderr(
    kp: Kp, arguments: list[str], variables: dict[str, str], code: int, named: str
) -> None:
    done = kp(*arguments, **variables)
    assert done.returncode == code, done
    assert len(done.stderr.splitlines()) == 1, done.stderr
    assert named in done.stderr
    assert "hunter2" not in done.stderr


@pytest.mark.parametrize(
    ("arguments", "code", "named"),
    [
        (["logs", "nosuch"], 2, "unknown service 'nosuch'"),
        (["status"], 1, "`kp up`"),
    ],
)
def test_a_process_of_kp_ends_with_the_exit_code_and_one_line_on_stderr(
    tmp_path: Path, arguments: list[str], code: int, named: str
) -> None:
    done = process(tmp_path, "-m", "kp_platform", *arguments)
    assert done.returncode == code, done
    assert len(done.stderr.splitlines()) == 1, done.stderr
    assert named in done.stderr


def test_a_closed_pipe_ends_a_command_without_a_traceback(tmp_path: Path) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    done = subprocess.run(
        [sys.executable, "-m", "kp_platform", "config"],
        env={**os.environ, "PYTHONPATH": str(ROOT), **own_variables(tmp_path, {})},
        cwd=tmp_path,
        stdout=writing,
        stderr=subprocess.PIPE,
        timeout=120,
        check=False,
    )
    os.close(writing)
    assert (done.returncode, done.stderr) == (1, b"")


@pytest.mark.parametrize(
    ("arguments", "code"), [(["replay", "--help"], 0), (["lag"], 1), (["dlq", "list"], 1)]
)
def test_commands_without_a_run_of_dagster_do_not_import_it(
    tmp_path: Path, arguments: list[str], code: int
) -> None:
    done = process(tmp_path, "-c", IMPORTS, *arguments)
    assert done.returncode == code, done
    assert done.stdout.splitlines()[-1] == "[]"


def test_help_imports_no_client_of_a_server(tmp_path: Path) -> None:
    clients = ("confluent_kafka", "elasticsearch", "trino", "redis", "dagster", "grpc", "httpx")
    code = f"{IMPORTS}    print([name for name in {clients} if name in sys.modules])\n"
    done = process(tmp_path, "-c", code, "--help")
    assert done.returncode == 0, done
    assert done.stdout.splitlines()[-1] == "[]"


def test_a_settings_file_that_is_not_utf_8_is_named(tmp_path: Path, kp: Kp) -> None:
    (tmp_path / ".env").write_bytes(b"KP_MYSQL_USER=m\xfcller\n")
    done = kp("config")
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1
    assert ".env are not UTF-8" in done.stderr


def test_without_a_command_the_help_is_shown(kp: Kp) -> None:
    done = kp()
    assert done.returncode == 0
    assert "Usage: kp" in done.stdout
    assert "Exit codes: 0 success, 1 failure, 2 wrong usage or setting" in done.stdout
    assert done.stderr == ""


def test_down_succeeds_when_nothing_runs(kp: Kp) -> None:
    done = kp("down")
    assert (done.returncode, done.stderr) == (0, "")
    assert "nothing runs" in done.stdout


def test_purge_does_not_remove_a_folder_that_kp_did_not_create(tmp_path: Path, kp: Kp) -> None:
    (tmp_path / "home").mkdir()
    done = kp("down", "--purge")
    assert done.returncode == 1
    assert "was not created by kp" in done.stderr
    assert (tmp_path / "home").is_dir()


def test_config_masks_secrets_without_show_secrets(kp: Kp) -> None:
    secret = {"KP_MYSQL_PASSWORD": "s3cret", "KP_REDIS_URL": "redis://:s3cret@127.0.0.1:1/10"}
    masked = kp("config", "--json", **secret)
    values = json.loads(masked.stdout)
    assert "s3cret" not in masked.stdout
    assert values["KP_MYSQL_PASSWORD"] == "********"
    assert values["KP_REDIS_URL"] == "redis://:********@127.0.0.1:1/10"
    shown = json.loads(kp("config", "--json", "--show-secrets", **secret).stdout)
    assert shown["KP_MYSQL_PASSWORD"] == "s3cret"
    assert shown["KP_REDIS_URL"] == secret["KP_REDIS_URL"]


def test_config_has_every_setting(kp: Kp) -> None:
    values = json.loads(kp("config", "--json").stdout)
    assert set(values) == {f"KP_{name.upper()}" for name in LocalSettings.model_fields}


def test_failed_status_and_doctor_print_json_too(kp: Kp) -> None:
    services = json.loads(kp("status", "--json").stdout)
    assert [each["ready"] for each in services] == [False] * 9
    done = kp("doctor", "--json", KP_ELASTICSEARCH_JAVA_HOME="/nowhere")
    bad = [each["subject"] for each in json.loads(done.stdout) if not each["ok"]]
    assert (done.returncode, bad) == (1, ["java for elasticsearch"])


@pytest.mark.parametrize(
    "command", ["seed", "demo", "dlq list", "dlq show an-id", "dlq retry an-id --dry-run"]
)
def test_a_failed_command_prints_nothing_instead_of_its_json(kp: Kp, command: str) -> None:
    done = kp(*command.split(), "--json")
    assert (done.returncode, done.stdout) == (1, "")
    assert len(done.stderr.splitlines()) == 1
