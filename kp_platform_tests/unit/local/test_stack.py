"""The errors of `kp up` and `kp down`, without servers."""

import fcntl
from pathlib import Path

import pytest
from rich.console import Console

from kp_platform.local import stack, state, supervisor
from kp_platform.local.errors import StackError
from kp_platform.local.servers import services
from kp_platform.local.settings import LocalSettings
from kp_platform.local.supervisor import Supervisor


@pytest.fixture
def settings(tmp_path: Path) -> LocalSettings:
    """The settings of a stack of which nothing runs."""
    state.claim(tmp_path / "home")
    return LocalSettings(_env_file=None, home=tmp_path / "home")


def test_a_folder_that_another_kp_uses_is_named_with_its_setting(settings: LocalSettings) -> None:
    with (settings.home / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(StackError, match=f"KP_HOME={settings.home}: wait for it, or set"):
            stack.down(settings, Console(), purge=False)


def test_the_error_for_a_service_that_does_not_start_names_the_command_that_shows_its_log(
    settings: LocalSettings,
) -> None:
    kafka, *_ = services(settings)
    supervisor.log_file(settings.home, "kafka").write_text("why\nit ended\n")
    with pytest.raises(StackError, match="kafka ends at once; see `kp logs kafka`") as caught:
        stack._fail(kafka, "ends at once", Supervisor(settings.home))
    assert caught.value.details == ("why", "it ended")


def test_the_error_for_a_failed_initialization_names_kp_doctor() -> None:
    command = ("sh", "-c", "echo no library; exit 7")
    with pytest.raises(StackError, match=r"KP_HOME \(exit 7\); `kp doctor`") as caught:
        state.run_initialization("mysql", command)
    assert caught.value.details == ("no library",)


def test_generated_settings_are_created_once_and_private(tmp_path: Path) -> None:
    home = tmp_path / "home"
    generated = iter(({"KP_TRINO_USER": "it's $me", "KP_TRINO_URL": "https://h:1"}, {}))
    for _ in range(2):
        state.settle(home, "--kind", lambda: next(generated))
    assert LocalSettings(_env_file=None, home=home).trino_user == "it's $me"
    assert (home / "stack.env").stat().st_mode & 0o777 == 0o600


def test_a_stack_of_another_kind_is_not_changed(settings: LocalSettings) -> None:
    with pytest.raises(StackError, match="`kp up --kind`: set another folder"):
        state.settle(settings.home, "--kind", dict)


def test_consumers_stop_first_and_servers_last() -> None:
    names = ("kafka", "trino", "dagster-code-server", "dagster-webserver", "emitter")
    assert stack._stages_of_stop(names) == [
        ["dagster-webserver", "emitter"],
        ["dagster-code-server"],
        ["kafka", "trino"],
    ]
