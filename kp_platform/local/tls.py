"""The certificate of a secure stack: where it is, and which settings need it.

Belongs here: what several servers share. Does not belong here: making the certificate
(`secure.py`), and how one server uses it (that server's module).
"""

from pathlib import Path

from kp_platform.local.errors import StackError
from kp_platform.local.settings import LocalSettings


def authority_file(settings: LocalSettings) -> Path:
    """The certificate authority of a secure stack."""
    return settings.home / "tls" / "ca.pem"


def certificate_file(settings: LocalSettings) -> Path:
    """Key and certificate of the servers of a secure stack."""
    return settings.home / "tls" / "server.pem"


def is_secure(settings: LocalSettings) -> bool:
    """Whether KP_HOME has a certificate."""
    return certificate_file(settings).is_file()


def require_certificate(settings: LocalSettings, setting: str, value: str, service: str) -> Path:
    """The certificate that a value of a setting needs. Raises StackError without one."""
    if not is_secure(settings):
        raise StackError(
            f"{setting} is {value}: add {service} to KP_EXTERNAL if it runs there, or create a "
            "stack with a certificate: `kp up --secure`"
        )
    return certificate_file(settings)


def own_scheme(settings: LocalSettings, url: str, plain: str, encrypted: str) -> str:
    """The scheme that a local server supports: the encrypted one only with a certificate."""
    return encrypted if is_secure(settings) and url.startswith(f"{encrypted}:") else plain
