"""What a stack keeps below KP_HOME: rendered configuration and the servers' data.

Belongs here: making it, and removing it. Does not belong here: what is started with it
(`servers.py`).
"""

import base64
import shutil
import subprocess
import uuid
from collections.abc import Callable, Mapping
from pathlib import Path
from string import Template
from urllib.parse import urlsplit

import dotenv

from kp_platform.local import machine
from kp_platform.local.errors import StackError
from kp_platform.local.security import (
    authority_file,
    kafka_certificate,
    trino_login_config,
    trust_store_file,
)
from kp_platform.local.servers import (
    LOOPBACK,
    TUNNEL,
    Service,
    brokers,
    distribution,
    java_command,
    mysql_command,
    mysql_environment,
    trino_workers,
    tunnel_config,
)
from kp_platform.settings import STACK_ENV, Settings

TEMPLATES = Path(__file__).with_name("templates")
MARKER = "kp-stack"
"""The file that tells a folder of ours from one that only happens to be named by KP_HOME."""


def is_ours(home: Path) -> bool:
    return (home / MARKER).is_file()


def claim(home: Path) -> None:
    """Makes KP_HOME, readable by its owner only. Raises StackError when it holds other things."""
    if home.exists() and not is_ours(home) and (not home.is_dir() or any(home.iterdir())):
        raise StackError(f"KP_HOME={home} holds other things than a stack: name an empty folder")
    try:
        (home / "log").mkdir(mode=0o700, parents=True, exist_ok=True)
        home.chmod(0o700)
        (home / MARKER).write_text("All state of one local kp_platform stack.\n", encoding="utf-8")
    except OSError as error:
        raise StackError(f"KP_HOME={home} cannot be written: {error.strerror}") from error


def settle(home: Path, flag: str, make: Callable[[], Mapping[str, str]]) -> None:
    """What `kp up FLAG` made up for a stack is kept with it, so every later command knows. `make`
    is called once, for a fresh KP_HOME. Raises StackError when it holds a stack of another kind.
    """
    path, title = home / STACK_ENV, f"# Made by `kp up {flag}`."
    if path.exists() and path.read_text(encoding="utf-8").startswith(title):
        return
    if is_ours(home):
        raise StackError(
            f"KP_HOME={home} holds a stack that was not made by `kp up {flag}`: "
            "name another folder, or remove it with `kp down --purge`"
        )
    claim(home)
    made = make()
    path.touch(mode=0o600)
    path.write_text(f"{title}\n", encoding="utf-8")
    for name, value in made.items():
        dotenv.set_key(path, name, value)


def purge(home: Path) -> None:
    if not is_ours(home):
        raise StackError(f"KP_HOME={home} was not made by kp: nothing is removed")
    shutil.rmtree(home)


def prepare(settings: Settings, services: tuple[Service, ...]) -> None:
    """Writes the configuration of all local services, and the first data of those that need it."""
    for service in services:
        if service.is_local and service.name in _PREPARE:
            _PREPARE[service.name](settings)
    _prepare_dagster(settings)


def _prepare_kafka(settings: Settings) -> None:
    nodes = brokers(settings)
    voters = (f"{each.node}@127.0.0.1:{each.controller.number}" for each in nodes)
    replicas = min(3, len(nodes))
    shared: dict[str, int | str] = {
        "voters": ",".join(voters),
        "replicas": replicas,
        "in_sync": max(1, replicas - 1),  # one broker may be away
        "protocol": settings.kafka_security_protocol,
        "security": _kafka_security(settings),
    }
    for broker in nodes:
        folder = settings.home / broker.name
        config = folder / "server.properties"
        _render(
            "server.properties",
            config,
            node=broker.node,
            port=broker.listener.number,
            controller_port=broker.controller.number,
            data=folder / "data",
            **shared,
        )
        if not (folder / "data" / "meta.properties").exists():
            _format(settings, broker.name, config)


def _format(settings: Settings, name: str, config: Path) -> None:
    """All brokers of a KP_HOME get one cluster id, also those formatted by a later `kp up`."""
    # A cluster id is 16 bytes in base64; Kafka makes none that starts with a dash.
    home = uuid.uuid5(uuid.NAMESPACE_URL, settings.home.as_uri())
    cluster = base64.urlsafe_b64encode(home.bytes).decode().rstrip("=")
    arguments = ("format", "--ignore-formatted", "-t", f"k{cluster[1:]}", "-c", str(config))
    jars = distribution(settings, "kafka")
    _run(name, java_command(jars, "kafka.tools.StorageTool", *arguments, heap="128m"))


def _kafka_security(settings: Settings) -> str:
    certificate = kafka_certificate(settings)
    if certificate is None:
        return ""
    return _filled(
        "server-security.properties",
        certificate=certificate,
        authority=authority_file(settings),
        admin=settings.kafka_admin_user,
    )


def _prepare_mysql(settings: Settings) -> None:
    data, fresh = settings.home / "mysql", settings.home / "mysql.new"
    _link_libaio(settings)
    if data.exists():
        return
    shutil.rmtree(fresh, ignore_errors=True)
    command = (*mysql_command(settings), "--initialize-insecure", f"--datadir={fresh}")
    _run("mysql", command, mysql_environment(settings))
    fresh.rename(data)  # only a whole one is ever started


def _link_libaio(settings: Settings) -> None:
    renamed = machine.renamed_libaio()
    link = settings.cache / "libaio" / "libaio.so.1"
    if renamed is not None and not link.is_symlink():
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(renamed)


def _prepare_redis(settings: Settings) -> None:
    (settings.home / "redis").mkdir(exist_ok=True)


def _prepare_redis_tunnel(settings: Settings) -> None:
    parts = urlsplit(settings.redis_url.get_secret_value())
    host = str(parts.hostname)
    is_address = host.replace(".", "").isdecimal() or ":" in host
    _render(
        "stunnel.conf",
        tunnel_config(settings),
        accept=f"{LOOPBACK}:{settings.redis_tunnel_port}",
        connect=f"{host}:{parts.port or 6379}",
        authorities=settings.trusted_ca_file,
        check="checkIP" if is_address else "checkHost",
        host=host,
    )


def _prepare_elasticsearch(settings: Settings) -> None:
    folder = settings.home / "elasticsearch"
    for name in ("config", "data", "logs", "tmp"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    config = folder / "config"
    _render(
        "elasticsearch.yml",
        config / "elasticsearch.yml",
        port=int(settings.elasticsearch_url.rpartition(":")[2]),
        transport_port=settings.elasticsearch_transport_port,
        data=folder / "data",
        logs=folder / "logs",
    )
    for name in ("jvm.options", "log4j2.properties"):
        _render(name, config / name)


def _prepare_trino(settings: Settings) -> None:
    for name in ("trino", *trino_workers(settings)):
        (settings.home / name).mkdir(exist_ok=True)
    folder = settings.home / "trino"
    if settings.mysql_tls:
        from kp_platform.local.secure import trust_store  # slow to import

        authorities = Path(settings.trusted_ca_file).read_bytes()
        trust_store_file(settings).write_bytes(trust_store(authorities))
    if settings.trino_url.startswith("https:"):
        from kp_platform.local.secure import hashed

        users = folder / "users"
        users.touch(mode=0o600)
        password = settings.trino_password.get_secret_value()
        users.write_text(f"{settings.trino_user}:{hashed(password)}\n", encoding="utf-8")
        _render("password-authenticator.properties", trino_login_config(settings), users=users)


def _prepare_dagster(settings: Settings) -> None:
    folder = settings.home / "dagster"
    _render("dagster.yaml", folder / "dagster.yaml")
    if settings.dagster_postgres_url.get_secret_value():
        with (folder / "dagster.yaml").open("a", encoding="utf-8") as file:
            file.write((TEMPLATES / "postgres.yaml").read_text(encoding="utf-8"))
    _render(
        "workspace.yaml",
        folder / "workspace.yaml",
        code_server_port=settings.dagster_code_server_port,
    )


_PREPARE = {
    "kafka": _prepare_kafka,
    "mysql": _prepare_mysql,
    "redis": _prepare_redis,
    TUNNEL: _prepare_redis_tunnel,
    "elasticsearch": _prepare_elasticsearch,
    "trino": _prepare_trino,
}


def _render(template: str, path: Path, **values: int | str | Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(_filled(template, **values), encoding="utf-8")


def _filled(template: str, **values: int | str | Path) -> str:
    return Template((TEMPLATES / template).read_text(encoding="utf-8")).substitute(values)


def _run(name: str, command: tuple[str, ...], environment: dict[str, str] | None = None) -> None:
    """A first step of a server that ends by itself. It dies with this process's own exception."""
    result = subprocess.run(
        command,
        env=environment or None,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    if result.returncode != 0:
        lines = tuple(result.stdout.splitlines()[-15:])
        raise StackError(
            f"{name}: its first data could not be made in KP_HOME (exit {result.returncode}); "
            "`kp doctor` tells what it needs",
            lines,
        )
