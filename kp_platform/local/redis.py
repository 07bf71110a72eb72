"""Redis of the local stack, and the tunnel through which Trino reaches a Redis with TLS.

Belongs here: all that is particular to the local Redis. Does not belong here: calls to Redis
(`adapters/redis.py`).
"""

import hashlib
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from urllib.parse import unquote, urlsplit

from kp_platform.adapters.errors import ServerDown
from kp_platform.local import machine, state, tls
from kp_platform.local.errors import StackError
from kp_platform.local.service import (
    LOOPBACK,
    SERVERS,
    Finding,
    Port,
    Service,
    needs_program,
    quoted,
    url_port,
    with_standard_input,
)
from kp_platform.local.settings import LocalSettings

NAME = "redis"
TUNNEL = "redis-tunnel"


def services(settings: LocalSettings) -> tuple[Service, ...]:
    """Redis, and its tunnel if Trino needs one. Raises StackError for settings that no local Redis
    supports."""
    return (_redis(settings), *((_tunnel(settings),) if needs_tunnel(settings) else ()))


def _redis(settings: LocalSettings) -> Service:
    parts = urlsplit(settings.redis_url.get_secret_value())
    declare = partial(
        Service,
        name=NAME,
        stage=SERVERS,
        address=f"{parts.hostname}:{parts.port or 6379}",
        ready=partial(_ready, settings),
    )
    if NAME in settings.external_services:
        return declare()
    url = settings.redis_url.get_secret_value()
    scheme = tls.own_scheme(settings, url, "redis", "rediss")
    port = url_port("KP_REDIS_URL", url, NAME, scheme=scheme)
    server = (
        _program() or "redis-server",
        *_listener(settings, port.number, is_encrypted=scheme == "rediss"),
        "--bind", LOOPBACK,
        "--dir", str(_folder(settings)),
        "--databases", str(max(16, int(_database(settings)) + 1)),
        "--appendonly", "yes",
        "--save", "",
        "--set-proc-title", "no",  # a title overwrites the environment that `kp down` searches
        "-",
    )  # fmt: skip
    return declare(
        ports=(port,),
        command=with_standard_input("KP_REDIS_INIT", server),
        prepare=partial(_prepare, settings),
        prerequisites=_prerequisites,
    )


def _program() -> str | None:
    return machine.program("redis-server")


def _folder(settings: LocalSettings) -> Path:
    return settings.home / "redis"


def _listener(settings: LocalSettings, port: int, *, is_encrypted: bool) -> tuple[str, ...]:
    if not is_encrypted:
        return ("--port", str(port))
    certificate = str(tls.certificate_file(settings))
    return (
        "--port", "0", "--tls-port", str(port), "--tls-auth-clients", "no",
        "--tls-cert-file", certificate, "--tls-key-file", certificate,
        "--tls-ca-cert-file", str(tls.authority_file(settings)),
    )  # fmt: skip


def _ready(settings: LocalSettings) -> None:
    from kp_platform.adapters.redis import RedisAdapter

    RedisAdapter(settings).probe()


def _prepare(settings: LocalSettings) -> None:
    _folder(settings).mkdir(exist_ok=True)


def _prerequisites() -> Iterator[Finding]:
    yield needs_program("redis-server", _program(), "redis-server")


def secrets(settings: LocalSettings) -> dict[str, str]:
    """The variables of Trino's catalog, and the one that Redis reads from its standard input."""
    return {**catalog_environment(settings), "KP_REDIS_INIT": init(settings)}


def catalog_environment(settings: LocalSettings) -> dict[str, str]:
    """KP_REDIS_URL in the parts that Trino's catalog needs, with the user of that catalog."""
    parts = urlsplit(settings.redis_url.get_secret_value())
    node = f"{parts.hostname}:{parts.port or 6379}"
    if needs_tunnel(settings):
        node = f"{LOOPBACK}:{settings.redis_tunnel_port}"
    user, password = login(settings)
    if settings.redis_trino_user:
        user = settings.redis_trino_user
        password = settings.redis_trino_password.get_secret_value()
    return {
        "KP_REDIS_NODE": node,
        "KP_REDIS_DATABASE": _database(settings),
        "KP_REDIS_USER": user,
        "KP_REDIS_PASSWORD": password,
    }


def _database(settings: LocalSettings) -> str:
    path = urlsplit(settings.redis_url.get_secret_value()).path
    database = path.strip("/") or "0"
    if not database.isdecimal():
        raise StackError(f"KP_REDIS_URL has the database {database!r}: use a number")
    return database


def login(settings: LocalSettings) -> tuple[str, str]:
    """User and password of KP_REDIS_URL."""
    parts = urlsplit(settings.redis_url.get_secret_value())
    return unquote(parts.username or "") or "default", unquote(parts.password or "")


def init(settings: LocalSettings) -> str:
    """The password of the local Redis, or its users when KP_REDIS_URL has a user."""
    user, password = login(settings)
    if user == "default":
        return f"requirepass {quoted(password)}" if password else ""
    trino = catalog_environment(settings)
    # `#` takes the hash of a password, which needs no quoting. Trino may be the same user.
    rights = {
        (trino["KP_REDIS_USER"], trino["KP_REDIS_PASSWORD"]): "~* +@read +@connection -@dangerous",
        (user, password): "~* +@read +@write +@connection +@transaction -@dangerous",
    }
    lines = ["user default off"]
    for (name, secret), rules in rights.items():
        lines.append(f"user {name} on #{hashlib.sha256(secret.encode()).hexdigest()} {rules}")
    return "\n".join(lines)


def needs_tunnel(settings: LocalSettings) -> bool:
    """Trino's Redis connector (476) does not support TLS, so stunnel runs beside a local Trino."""
    encrypted = settings.redis_url.get_secret_value().startswith("rediss:")
    return encrypted and "trino" not in settings.external_services


def _tunnel(settings: LocalSettings) -> Service:
    port = Port(setting="KP_REDIS_TUNNEL_PORT", number=settings.redis_tunnel_port)
    return Service(
        name=TUNNEL,
        stage=SERVERS,
        address=f"{LOOPBACK}:{port.number}",
        ready=partial(_tunnel_ready, settings),
        ports=(port,),
        command=(_stunnel() or "stunnel", str(_tunnel_config(settings))),
        prepare=partial(prepare_tunnel, settings),
        prerequisites=_tunnel_prerequisites,
    )


def _stunnel() -> str | None:
    return machine.program("stunnel")


def _tunnel_config(settings: LocalSettings) -> Path:
    return settings.home / TUNNEL / "stunnel.conf"


def _tunnel_ready(settings: LocalSettings) -> None:
    """The user of Trino's catalog reaches Redis through the tunnel."""
    import redis

    catalog = catalog_environment(settings)
    address = catalog["KP_REDIS_NODE"]
    host, _, port = address.rpartition(":")
    user, password = catalog["KP_REDIS_USER"], catalog["KP_REDIS_PASSWORD"]
    try:
        with redis.Redis(
            host, int(port), username=user, password=password, socket_timeout=5
        ) as client:
            client.ping()
    except redis.RedisError as error:
        setting = "KP_REDIS_TUNNEL_PORT, KP_REDIS_TRINO_USER, KP_REDIS_TRINO_PASSWORD"
        raise ServerDown("Redis behind its tunnel", address, setting, error) from error


def prepare_tunnel(settings: LocalSettings) -> None:
    """Write the configuration of stunnel, which verifies the certificate and host of Redis."""
    parts = urlsplit(settings.redis_url.get_secret_value())
    host = str(parts.hostname)
    is_address = host.replace(".", "").isdecimal() or ":" in host
    state.render(
        "stunnel.conf",
        _tunnel_config(settings),
        accept=f"{LOOPBACK}:{settings.redis_tunnel_port}",
        connect=f"{host}:{parts.port or 6379}",
        authorities=settings.trusted_ca_file,
        check="checkIP" if is_address else "checkHost",
        host=host,
    )


def _tunnel_prerequisites() -> Iterator[Finding]:
    yield needs_program("stunnel", _stunnel(), "stunnel4")
