"""The errors of a server that cannot be used, and which setting each of them names.

Belongs here: the errors, and the handling of TLS and logins that all servers share. Does not belong
here: connections.
"""

import socket
import ssl
from collections.abc import Sequence
from dataclasses import dataclass
from urllib.parse import urlsplit

from kp_platform.settings import without_password

NO_ANSWER = "does not answer"
SECURITY = "see docs/how-to/security.md"
_HANDSHAKE_SECONDS = 0.5


class ServerDown(Exception):
    """A server cannot be used: it does not answer, or `problem` states what it does instead.

    The text names the server, its address, the setting and a fix; it contains no password.
    """

    def __init__(
        self,
        server: str,
        address: str,
        setting: str,
        cause: object,
        problem: str = NO_ANSWER,
        fix: str = "see `kp status`, start the local servers with `kp up`",
    ) -> None:
        reason = " ".join(str(cause).split())[:300]
        super().__init__(
            f"{server} {problem} at {without_password(address)} (setting {setting}): {reason}; "
            f"{fix}"
        )


class TopicMissing(Exception):
    """A flow's topic does not exist."""

    def __init__(self, topic: str, address: str) -> None:
        super().__init__(
            f"topic {topic} does not exist at {address} (setting KP_KAFKA_BOOTSTRAP_SERVERS); "
            "`kp up` creates it on the local broker"
        )


@dataclass(frozen=True, slots=True)
class Refusal:
    """A server that runs and rejects the connection: the text of its client's error in lower case,
    the setting to correct, and the problem as `ServerDown` reports it."""

    error_text: str
    setting: str
    problem: str


UNTRUSTED = Refusal(
    "certificate verify failed",
    "KP_CA_FILE",
    "presents a certificate that KP_CA_FILE does not trust",
)


def server_error(
    server: str,
    address: str,
    setting: str,
    cause: object,
    refusals: Sequence[Refusal] = (),
    problem: str = NO_ANSWER,
) -> ServerDown:
    """The error with the setting to correct: that of a refusal, of TLS that only one side uses, or
    else the address of a server that is down."""
    text = str(cause).lower()
    for each in (UNTRUSTED, *refusals):
        if each.error_text in text:
            return ServerDown(server, address, each.setting, cause, each.problem, SECURITY)
    parts = urlsplit(address)
    if problem == NO_ANSWER and parts.hostname and parts.port:
        encrypted = parts.scheme in ("https", "rediss")
        if mismatch := tls_mismatch(parts.hostname, parts.port, encrypted):
            return ServerDown(server, address, setting, cause, mismatch, SECURITY)
    return ServerDown(server, address, setting, cause, problem)


def tls_mismatch(host: str, port: int, encrypted: bool) -> str:
    """The problem when only one side uses TLS, which clients report as a broken connection; empty
    when both sides agree or the server does not answer."""
    accepted = accepts_tls(host, port)
    if accepted is None or accepted is encrypted:
        return ""
    return "does not accept TLS" if encrypted else "requires TLS"


def accepts_tls(host: str, port: int) -> bool | None:
    """Whether a server answers a TLS handshake, with any certificate; None when it does not answer
    within half a second."""
    unverified = ssl.create_default_context()
    unverified.check_hostname, unverified.verify_mode = False, ssl.CERT_NONE
    try:
        with socket.create_connection((host, port), timeout=_HANDSHAKE_SECONDS) as connection:
            try:
                unverified.wrap_socket(connection).close()
            except TimeoutError:
                return None
            except OSError:  # ssl.SSLError too: it hangs up, or its answer is no handshake
                return False
    except OSError:
        return None
    return True
