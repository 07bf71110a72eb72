"""What `kp up` and `kp down` say when they cannot go on, without servers."""

import fcntl
from pathlib import Path

import pytest
from rich.console import Console

from kp_platform.local import stack, state, supervisor
from kp_platform.local.errors import StackError
from kp_platform.local.servers import services
from kp_platform.local.supervisor import Supervisor
from kp_platform.settings import Settings


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    """Those of a folder that is a stack's, of which nothing runs."""
    state.claim(tmp_path / "home")
    return Settings(_env_file=None, home=tmp_path / "home")


def test_a_folder_that_another_kp_works_on_is_named_with_its_setting(settings: Settings) -> None:
    with (settings.home / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(StackError, match=f"KP_HOME={settings.home}: wait for it, or name"):
            stack.down(settings, Console(), purge=False)


def test_a_service_that_does_not_come_up_names_the_command_that_shows_its_log(
    settings: Settings,
) -> None:
    kafka, *_ = services(settings)
    supervisor.log_file(settings.home, "kafka").write_text("why\nit ended\n")
    with pytest.raises(StackError, match="kafka ends at once; see `kp logs kafka`") as caught:
        stack._blame(kafka, "ends at once", Supervisor(settings.home))
    assert caught.value.details == ("why", "it ended")


def test_first_data_that_cannot_be_made_name_the_command_that_tells_what_is_missing() -> None:
    command = ("sh", "-c", "echo no library; exit 7")
    with pytest.raises(StackError, match=r"KP_HOME \(exit 7\); `kp doctor`") as caught:
        state._run("mysql", command)
    assert caught.value.details == ("no library",)


def test_what_a_stack_is_made_with_is_made_up_once_and_for_its_owner_only(tmp_path: Path) -> None:
    home = tmp_path / "home"
    made = iter(({"KP_TRINO_USER": "it's $me", "KP_TRINO_URL": "https://h:1"}, {}))
    for _ in range(2):
        state.settle(home, "--kind", lambda: next(made))
    assert Settings(_env_file=None, home=home).trino_user == "it's $me"
    assert (home / "stack.env").stat().st_mode & 0o777 == 0o600


def test_a_stack_of_another_kind_is_not_made_over(settings: Settings) -> None:
    with pytest.raises(StackError, match="`kp up --kind`: name another folder"):
        state.settle(settings.home, "--kind", dict)
