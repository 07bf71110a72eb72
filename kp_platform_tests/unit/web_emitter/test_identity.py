"""The identify hook: loading it by name, and the fallback when it fails."""

import logging

import pytest
from starlette.datastructures import Headers
from starlette.types import Scope

from web_emitter.emitter.identity import DEMO_NAMES, Identity, load_hook, random_demo_name

LOGGER = logging.getLogger("test")


async def asynchronous_hook(scope: Scope) -> str:
    return "kafka"


def user_header_hook(scope: Scope) -> str:
    """A hook for an application behind a proxy that sets the header."""
    (name,) = Headers(scope=scope).getlist("x-user")
    return name.encode("latin-1").decode("utf-8")


def broken_hook(scope: Scope) -> str:
    raise LookupError("no session")


def test_the_demo_draws_one_of_the_four_names() -> None:
    assert {random_demo_name({}) for _ in range(200)} == set(DEMO_NAMES)


def test_a_hook_is_loaded_by_its_name() -> None:
    assert load_hook("web_emitter.emitter.identity:random_demo_name") is random_demo_name


@pytest.mark.parametrize(
    "path",
    [
        "no_such_module:hook",
        "web_emitter.emitter.identity:no_such_hook",
        "web_emitter.emitter.identity:ANONYMOUS",  # not callable
        f"{__name__}:asynchronous_hook",  # would return a coroutine
    ],
)
def test_an_invalid_hook_is_rejected_at_start(path: str) -> None:
    with pytest.raises(ValueError, match="KP_EMITTER_IDENTIFY"):
        load_hook(path)


@pytest.mark.parametrize(
    ("headers", "name", "anonymous"),
    [
        ([(b"x-user", "Zoë".encode())], "Zoë", {}),
        ([(b"x-user", b"a"), (b"x-user", b"b")], "anonymous", {"raised": 1}),  # ambiguous
        ([(b"x-user", b"\xff")], "anonymous", {"raised": 1}),  # not UTF-8
        ([(b"x-user", b"a" * 10_000)], "anonymous", {"too_long": 1}),
        ([(b"x-user", b"")], "anonymous", {"empty": 1}),
        ([], "anonymous", {"raised": 1}),
    ],
)
def test_a_visitor_without_a_valid_name_is_anonymous_and_counted(
    headers: list[tuple[bytes, bytes]], name: str, anonymous: dict[str, int]
) -> None:
    identity = Identity(user_header_hook, LOGGER)
    assert identity({"type": "http", "headers": headers}) == name
    assert identity.anonymous == anonymous


def test_a_hook_that_returns_no_text_gives_an_anonymous_visitor() -> None:
    identity = Identity(lambda scope: None, LOGGER)  # type: ignore[arg-type, return-value]  # invalid on purpose
    assert identity({}) == "anonymous"
    assert identity.anonymous == {"not_text": 1}


def test_a_failing_hook_is_logged_once_and_counted_each_time(
    caplog: pytest.LogCaptureFixture,
) -> None:
    identity = Identity(broken_hook, LOGGER)
    for _ in range(100):
        identity({})
    assert identity.anonymous == {"raised": 100}
    assert len(caplog.records) == 1
