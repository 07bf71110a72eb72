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
