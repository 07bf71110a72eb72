"""What a connection raises when its server cannot be used, and how it finds the setting to blame.

Belongs here: the errors, and what of TLS and logins is alike on all servers. Does not belong here:
connections.
"""

import socket
import ssl
from collections.abc import Sequence
from dataclasses import dataclass
from urllib.parse import urlsplit

from kp_platform.settings import without_password

NO_ANSWER = "does not answer"
_LOOK_SECONDS = 0.5
SECURITY = "see docs/how-to/security.md"


class ServerDown(Exception):
    """A server cannot be used: it does not answer, or `problem` says what it does instead.

    The text names the server, its address and the setting; it has no password.
    """

    def __init__(
        self,
        server: str,
        address: str,
        setting: str,
        cause: object,
        problem: str = NO_ANSWER,
        way_out: str = "see `kp status`, start the local servers with `kp up`",
    ) -> None:
        reason = " ".join(str(cause).split())[:300]
        super().__init__(
            f"{server} {problem} at {without_password(address)} (setting {setting}): {reason}; "
            f"{way_out}"
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
    """A server that runs and does not let us in: what its client says then, the setting that mends
    it, and the words for a person."""

    said: str
    setting: str
    problem: str


UNTRUSTED = Refusal(
    "certificate verify failed", "KP_CA_FILE", "shows a certificate that KP_CA_FILE does not trust"
)


def shut_out(
    server: str,
    address: str,
    setting: str,
    cause: object,
    refusals: Sequence[Refusal] = (),
    problem: str = NO_ANSWER,
) -> ServerDown:
    """The error that blames the right setting: of a refusal, or of a URL that has TLS where the
    server has none, or the other way round; else of a server that is down."""
    said = str(cause).lower()
    for each in (UNTRUSTED, *refusals):
        if each.said in said:
            return ServerDown(server, address, each.setting, cause, each.problem, SECURITY)
    parts = urlsplit(address)
    if problem == NO_ANSWER and parts.hostname and parts.port:
        encrypted = parts.scheme in ("https", "rediss")
        if other := tls_on_one_side(parts.hostname, parts.port, encrypted):
            return ServerDown(server, address, setting, cause, other, SECURITY)
    return ServerDown(server, address, setting, cause, problem)


def tls_on_one_side(host: str, port: int, encrypted: bool) -> str:
    """What the server does instead of what we do, of which a client just says that the connection
    broke; empty when both agree or the server does not answer."""
    does = speaks_tls(host, port)
    if does is None or does is encrypted:
        return ""
    return "speaks no TLS" if encrypted else "speaks TLS only"


def speaks_tls(host: str, port: int) -> bool | None:
    """Whether a server answers a TLS handshake, whatever its certificate; None when it does not
    answer in half a second."""
    curious = ssl.create_default_context()
    curious.check_hostname, curious.verify_mode = False, ssl.CERT_NONE
    try:
        with socket.create_connection((host, port), timeout=_LOOK_SECONDS) as connection:
            try:
                curious.wrap_socket(connection).close()
            except TimeoutError:
                return None
            except OSError:  # ssl.SSLError too: it hangs up, or says what is no handshake
                return False
    except OSError:
        return None
    return True
