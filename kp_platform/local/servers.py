"""The services of a local stack, declared: what is started, where it listens, when it is ready.

Belongs here: one `Service` value for each service, made from the settings. Does not belong here:
their configuration files and data (`state.py`), and keeping them alive (`supervisor.py`).
The settings are the truth for where a service listens: a server on this machine is bound to the
port of its own URL. Everything listens on 127.0.0.1 only.
"""

import hashlib
import json
import os
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from pymysql.converters import escape_string

from kp_platform.local import machine, probes
from kp_platform.local.artifacts import manifest
from kp_platform.local.errors import StackError
from kp_platform.local.security import (
    authority_file,
    certificate_file,
    kafka_certificate,
    mysql_options,
    mysql_tls_arguments,
    own_scheme,
    quoted,
    trino_https,
)
from kp_platform.settings import LOOPBACK_HOSTS, Settings

LOOPBACK = "127.0.0.1"
TUNNEL = "redis-tunnel"
SERVERS, CODE, CONSUMERS = range(3)
"""The stages of a start: a stage begins when the one before it is ready."""
MEMORY_OF_A_BROKER, MEMORY_OF_A_WORKER = 500_000_000, 1_500_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Port:
    """A port that a service of this machine will listen on, and the setting that moves it."""

    setting: str
    number: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Service:
    """One service. `command` is empty when it runs elsewhere and is only probed.

    `ready` returns when the service answers for real and raises ServerDown when it does not (yet).
    `environment` is seen in the process list: it holds paths and ports, never a secret.
    `more_memory`: bytes that it needs on top of what a stack with one node of each server takes.
    """

    name: str
    stage: int
    address: str
    ready: Callable[[], None]
    command: tuple[str, ...] = ()
    environment: dict[str, str] = field(default_factory=dict)
    ports: tuple[Port, ...] = ()
    more_memory: int = 0

    @property
    def is_local(self) -> bool:
        return bool(self.command)


def services(settings: Settings) -> tuple[Service, ...]:
    """All services in the order of their start. Raises StackError when settings contradict."""
    tunnel = (_redis_tunnel(settings),) if needs_tunnel(settings) else ()
    return (
        *_kafka(settings),
        _mysql(settings),
        _redis(settings),
        *tunnel,
        _elasticsearch(settings),
        *_trino(settings),
        _code_server(settings),
        _webserver(settings),
        _daemon(settings),
        _emitter(settings),
    )


def distribution(settings: Settings, name: str) -> Path:
    return manifest()[name].folder(settings.cache)


def local_port(setting: str, host: str | None, port: int | None, service: str = "") -> Port:
    """The port of a server that is to be started here; another host is somebody else's server."""
    if host not in LOOPBACK_HOSTS:
        raise StackError(f"{setting} names the host {host!r}: {_or_external(service)}use 127.0.0.1")
    if port is None or not 1 <= port <= 65_535:
        raise StackError(f"{setting} names no port from 1 to 65535")
    return Port(setting=setting, number=port)


def _or_external(service: str) -> str:
    return f"name {service} in KP_EXTERNAL if it runs there, or " if service else ""


def _url_port(setting: str, url: str, service: str = "", scheme: str = "http") -> Port:
    parts = urlsplit(url)
    port = local_port(setting, parts.hostname, parts.port, service)
    if parts.scheme != scheme:
        way_out = f"{_or_external(service)}use {scheme}, as the servers of `kp up` do"
        raise StackError(f"{setting} is {parts.scheme}: {way_out}")
    return port


def java_command(classpath: Path, main: str, *arguments: str, heap: str) -> tuple[str, ...]:
    java = machine.TRINO_JAVA_HOME / "bin" / "java"
    options = (f"-Xmx{heap}", "-XX:+UseG1GC", "-XX:+ExitOnOutOfMemoryError", "-Duser.timezone=UTC")
    return (str(java), *options, "-cp", f"{classpath}/*", main, *arguments)


def jvm_environment(settings: Settings) -> dict[str, str]:
    """Options that every `java` takes from its environment, besides those of its command."""
    return {"JDK_JAVA_OPTIONS": settings.jvm_options} if settings.jvm_options else {}


@dataclass(frozen=True, slots=True, kw_only=True)
class Broker:
    """A Kafka broker of this machine, which is one of the controllers too."""

    name: str
    node: int
    address: str
    listener: Port
    controller: Port


def brokers(settings: Settings) -> tuple[Broker, ...]:
    """One for each address of KP_KAFKA_BOOTSTRAP_SERVERS; their controllers listen on
    KP_KAFKA_CONTROLLER_PORT and the ports that follow it."""
    addresses = settings.kafka_bootstrap_servers.split(",")
    return tuple(
        Broker(
            name="kafka" if node == 1 else f"kafka-{node}",
            node=node,
            address=address.strip(),
            listener=_broker_port(address.strip()),
            controller=Port(
                setting="KP_KAFKA_CONTROLLER_PORT", number=settings.kafka_controller_port + node - 1
            ),
        )
        for node, address in enumerate(addresses, start=1)
    )


def _broker_port(address: str) -> Port:
    host, _, port = address.partition(":")
    number = int(port) if port.isdecimal() else None
    return local_port("KP_KAFKA_BOOTSTRAP_SERVERS", host, number, "kafka")


def _kafka(settings: Settings) -> tuple[Service, ...]:
    if "kafka" in settings.external_services:
        address = settings.kafka_bootstrap_servers
        return (Service(name="kafka", stage=SERVERS, address=address, ready=probes.kafka),)
    kafka_certificate(settings)
    return tuple(
        Service(
            name=broker.name,
            stage=SERVERS,
            address=broker.address,
            ready=partial(probes.broker, broker.address),
            ports=(broker.listener, broker.controller),
            command=java_command(
                distribution(settings, "kafka"),
                "kafka.Kafka",
                str(settings.home / broker.name / "server.properties"),
                heap="512m",
            ),
            environment=jvm_environment(settings),
            more_memory=0 if broker.node == 1 else MEMORY_OF_A_BROKER,
        )
        for broker in brokers(settings)
    )


def _mysql(settings: Settings) -> Service:
    address = f"{settings.mysql_host}:{settings.mysql_port}"
    declare = partial(Service, name="mysql", stage=SERVERS, address=address, ready=probes.mysql)
    if "mysql" in settings.external_services:
        return declare()
    local_port("KP_MYSQL_HOST", settings.mysql_host, settings.mysql_port, "mysql")
    server = (
        *mysql_command(settings),
        f"--datadir={settings.home / 'mysql'}",
        f"--bind-address={LOOPBACK}",
        f"--port={settings.mysql_port}",
        "--socket=mysql.sock",  # relative to the data folder: no limit on the length of KP_HOME
        "--mysqlx=OFF",
        "--skip-name-resolve",
        "--default-time-zone=+00:00",
        "--character-set-server=utf8mb4",
        "--skip-log-bin",
        "--init-file=/dev/stdin",
        *mysql_tls_arguments(settings),
    )
    return declare(
        ports=(Port(setting="KP_MYSQL_PORT", number=settings.mysql_port),),
        command=_with_standard_input("KP_MYSQL_INIT", server),
        environment=mysql_environment(settings),
    )


def mysql_command(settings: Settings) -> tuple[str, ...]:
    folder = distribution(settings, "mysql")
    user = ("--user=root",) if os.geteuid() == 0 else ()
    return (str(folder / "bin" / "mysqld"), "--no-defaults", f"--basedir={folder}", *user)


def mysql_environment(settings: Settings) -> dict[str, str]:
    """MySQL asks for libaio.so.1 by name; `state.py` links it where only the new name exists."""
    if machine.renamed_libaio() is None:
        return {}
    return {"LD_LIBRARY_PATH": str(settings.cache / "libaio")}


def mysql_init(settings: Settings) -> str:
    """What mysqld runs at each start before it listens: the database and its two users."""
    writes = "CREATE, SELECT, INSERT, UPDATE" if settings.mysql_tls else "ALL"
    users = (
        (writes, settings.mysql_user, settings.mysql_password),
        ("SELECT", settings.mysql_trino_user, settings.mysql_trino_password),
    )
    statements = ["CREATE DATABASE IF NOT EXISTS testing"]
    for grant, user, password in users:
        who = f"'{escape_string(user)}'@'%'"
        secret = escape_string(password.get_secret_value())
        statements += [
            f"CREATE USER IF NOT EXISTS {who}",
            f"ALTER USER {who} IDENTIFIED BY '{secret}'",
            f"GRANT {grant} ON testing.* TO {who}",
        ]
    statements.append("ALTER USER 'root'@'localhost' ACCOUNT LOCK")
    return "".join(f"{statement};\n" for statement in statements)


def _with_standard_input(variable: str, command: tuple[str, ...]) -> tuple[str, ...]:
    """Feeds the server a variable of its environment: a secret is then in no file and no argv."""
    return ("/bin/sh", str(Path(__file__).with_name("feed.sh")), variable, *command)


def _redis(settings: Settings) -> Service:
    parts = urlsplit(settings.redis_url.get_secret_value())
    address = f"{parts.hostname}:{parts.port or 6379}"
    declare = partial(Service, name="redis", stage=SERVERS, address=address, ready=probes.redis)
    if "redis" in settings.external_services:
        return declare()
    url = settings.redis_url.get_secret_value()
    scheme = own_scheme(settings, url, "redis", "rediss")
    port = _url_port("KP_REDIS_URL", url, "redis", scheme=scheme)
    database = int(redis_environment(settings)["KP_REDIS_DATABASE"])
    if scheme == "redis":
        listens: tuple[str, ...] = ("--port", str(port.number))
    else:
        certificate = str(certificate_file(settings))
        listens = (
            "--port", "0", "--tls-port", str(port.number), "--tls-auth-clients", "no",
            "--tls-cert-file", certificate, "--tls-key-file", certificate,
            "--tls-ca-cert-file", str(authority_file(settings)),
        )  # fmt: skip
    server = (
        machine.redis_server() or "redis-server",
        *listens,
        "--bind", LOOPBACK,
        "--dir", str(settings.home / "redis"),
        "--databases", str(max(16, database + 1)),
        "--appendonly", "yes",
        "--save", "",
        "--set-proc-title", "no",  # a title is written over the environment that we are found by
        "-",
    )  # fmt: skip
    return declare(ports=(port,), command=_with_standard_input("KP_REDIS_INIT", server))


def redis_environment(settings: Settings) -> dict[str, str]:
    """KP_REDIS_URL in the parts that Trino's catalog asks for, and the user of that catalog."""
    parts = urlsplit(settings.redis_url.get_secret_value())
    database = parts.path.strip("/") or "0"
    if not database.isdecimal():
        raise StackError(f"KP_REDIS_URL names the database {database!r}, which is not a number")
    node = f"{parts.hostname}:{parts.port or 6379}"
    user, password = redis_login(settings)
    if settings.redis_trino_user:
        user = settings.redis_trino_user
        password = settings.redis_trino_password.get_secret_value()
    return {
        "KP_REDIS_NODE": f"{LOOPBACK}:{settings.redis_tunnel_port}"
        if needs_tunnel(settings)
        else node,
        "KP_REDIS_DATABASE": database,
        "KP_REDIS_USER": user,
        "KP_REDIS_PASSWORD": password,
    }


def redis_login(settings: Settings) -> tuple[str, str]:
    """User and password of KP_REDIS_URL."""
    parts = urlsplit(settings.redis_url.get_secret_value())
    return unquote(parts.username or "") or "default", unquote(parts.password or "")


def redis_init(settings: Settings) -> str:
    """The password of the local Redis, or its users when the URL names one."""
    user, password = redis_login(settings)
    if user == "default":
        return f"requirepass {quoted(password)}" if password else ""
    trino = redis_environment(settings)
    # `#` takes the hash of a password, which needs no quoting. Trino may be the same user.
    rights = {
        (trino["KP_REDIS_USER"], trino["KP_REDIS_PASSWORD"]): "~* +@read +@connection -@dangerous",
        (user, password): "~* +@read +@write +@connection +@transaction -@dangerous",
    }
    lines = ["user default off"]
    for (name, secret), may in rights.items():
        lines.append(f"user {name} on #{hashlib.sha256(secret.encode()).hexdigest()} {may}")
    return "\n".join(lines)


def needs_tunnel(settings: Settings) -> bool:
    """Trino's Redis connector (476) speaks no TLS, so beside the local Trino stunnel does."""
    encrypted = settings.redis_url.get_secret_value().startswith("rediss:")
    return encrypted and "trino" not in settings.external_services


def _redis_tunnel(settings: Settings) -> Service:
    port = Port(setting="KP_REDIS_TUNNEL_PORT", number=settings.redis_tunnel_port)
    return Service(
        name=TUNNEL,
        stage=SERVERS,
        address=f"{LOOPBACK}:{port.number}",
        ready=partial(probes.redis_tunnel, redis_environment(settings)),
        ports=(port,),
        command=(machine.stunnel() or "stunnel", str(tunnel_config(settings))),
    )


def tunnel_config(settings: Settings) -> Path:
    return settings.home / TUNNEL / "stunnel.conf"


def _elasticsearch(settings: Settings) -> Service:
    url = settings.elasticsearch_url
    declare = partial(
        Service, name="elasticsearch", stage=SERVERS, address=url, ready=probes.elasticsearch
    )
    if "elasticsearch" in settings.external_services:
        return declare()
    transport = Port(
        setting="KP_ELASTICSEARCH_TRANSPORT_PORT", number=settings.elasticsearch_transport_port
    )
    folder = settings.home / "elasticsearch"
    return declare(
        ports=(_url_port("KP_ELASTICSEARCH_URL", url, "elasticsearch"), transport),
        command=(
            *_not_as_root(),
            str(distribution(settings, "elasticsearch") / "bin" / "elasticsearch"),
        ),
        environment={
            **jvm_environment(settings),
            "ES_JAVA_HOME": str(machine.elasticsearch_java_home(settings) or ""),
            "ES_PATH_CONF": str(folder / "config"),
            "ES_TMPDIR": str(folder / "tmp"),
            "ES_JAVA_OPTS": "",
            # Its launcher leaves folders in the temporary folder, and splits this at blanks.
            "CLI_JAVA_OPTS": "" if " " in str(folder) else f"-Djava.io.tmpdir={folder / 'tmp'}",
        },
    )


def _not_as_root() -> tuple[str, ...]:
    """Elasticsearch refuses uid 0. As nobody it would be stopped by folders of mode 0700 (/root, a
    mkdtemp clone), so it keeps the one capability that passes them; without the securebit access(2)
    ignores capabilities and Java sees unreadable files.
    """
    if os.geteuid() != 0:
        return ()
    return (
        "setpriv", "--reuid=65534", "--regid=65534", "--clear-groups",
        "--securebits=+no_setuid_fixup", "--bounding-set=-all,+dac_override",
        "--inh-caps=-all,+dac_override", "--ambient-caps=-all,+dac_override", "--",
    )  # fmt: skip


def _trino(settings: Settings) -> tuple[Service, ...]:
    """The coordinator, which works itself unless there are workers; they listen on the ports that
    follow its own."""
    declare = partial(Service, name="trino", stage=SERVERS, address=settings.trino_url)
    if "trino" in settings.external_services:
        return (declare(ready=probes.trino),)
    scheme = own_scheme(settings, settings.trino_url, "http", "https")
    port = _url_port("KP_TRINO_URL", settings.trino_url, "trino", scheme)
    workers = trino_workers(settings)
    if workers and scheme == "https":
        raise StackError("KP_TRINO_WORKERS: beside a coordinator with https there are none here")
    options = {"node-scheduler.include-coordinator": "false"} if workers else {}
    if scheme == "https":
        options |= trino_https(settings, port.number)
    coordinator = declare(ready=probes.trino, **_trino_node(settings, "trino", port, options))
    return (
        coordinator,
        *(
            _trino_worker(settings, name, replace(port, number=port.number + number))
            for number, name in enumerate(workers, start=1)
        ),
    )


def trino_workers(settings: Settings) -> tuple[str, ...]:
    return tuple(f"trino-worker-{number + 1}" for number in range(settings.trino_workers))


def _trino_worker(settings: Settings, name: str, port: Port) -> Service:
    url = f"http://{LOOPBACK}:{port.number}"
    return Service(
        name=name,
        stage=SERVERS,
        address=url,
        ready=partial(probes.trino_worker, url),
        more_memory=MEMORY_OF_A_WORKER,
        **_trino_node(settings, name, port, {"coordinator": "false"}),
    )


def _trino_node(
    settings: Settings, name: str, port: Port, options: Mapping[str, str]
) -> dict[str, Any]:
    options = {"node.bind-ip": LOOPBACK, "node.internal-address": LOOPBACK, **options}
    command = (
        str(distribution(settings, "trino") / "bin" / "launcher"),
        "-jvm-dir", str(machine.TRINO_JAVA_HOME),
        "-etc-dir", str(settings.presto_folder),
        "-data-dir", str(settings.home / name),
        *(part for name, value in options.items() for part in ("-D", f"{name}={value}")),
        "run",
    )  # fmt: skip
    is_plain = settings.kafka_security_protocol == "PLAINTEXT"
    files = ("kafka-client",) if is_plain else ("kafka-client", "kafka-security")
    environment = {
        **jvm_environment(settings),
        "KP_TRINO_PORT": str(port.number),
        "KP_KAFKA_TABLES": kafka_tables(settings),
        "KP_KAFKA_CLIENT_FILES": ",".join(f"etc/{name}.properties" for name in files),
        "KP_MYSQL_OPTIONS": mysql_options(settings),
    }
    if not is_plain:
        environment["KP_CA_FILE"] = settings.trusted_ca_file
    return {"ports": (port,), "command": command, "environment": environment}


def kafka_tables(settings: Settings) -> str:
    """The tables that the table files describe, as Trino's catalog wants them named."""
    files = sorted((settings.presto_folder / "kafka").glob("*.json"))
    if not files:
        raise StackError(f"KP_PRESTO_ETC: {settings.presto_folder} has no table file in kafka/")
    described = [json.loads(path.read_text(encoding="utf-8")) for path in files]
    return ",".join(f"{each['schemaName']}.{each['tableName']}" for each in described)


def _dagster_environment(settings: Settings) -> dict[str, str]:
    return {"DAGSTER_HOME": str(settings.home / "dagster"), "PYTHONUNBUFFERED": "1"}


def _code_server(settings: Settings) -> Service:
    port = settings.dagster_code_server_port
    return Service(
        name="dagster-code-server",
        stage=CODE,
        address=f"{LOOPBACK}:{port}",
        ready=partial(probes.code_server, settings),
        ports=(Port(setting="KP_DAGSTER_CODE_SERVER_PORT", number=port),),
        command=(
            sys.executable, "-m", "dagster", "api", "grpc",
            "--module-name", "kp_platform.definitions",
            "--location-name", "kp_platform",
            "--host", LOOPBACK, "--port", str(port),
            "--max-workers", "16",  # sensors hold one each while they watch a topic
            "--use-python-environment-entry-point",
        ),
        environment=_dagster_environment(settings),
    )  # fmt: skip


def _webserver(settings: Settings) -> Service:
    port = _url_port("KP_DAGSTER_URL", settings.dagster_url)
    return Service(
        name="dagster-webserver",
        stage=CONSUMERS,
        address=settings.dagster_url,
        ready=partial(probes.dagster_webserver, settings),
        ports=(port,),
        command=(
            sys.executable, "-m", "dagster_webserver",
            "--host", LOOPBACK, "--port", str(port.number),
            "--workspace", str(settings.home / "dagster" / "workspace.yaml"),
            *(("--read-only",) if settings.dagster_read_only else ()),
        ),
        environment=_dagster_environment(settings),
    )  # fmt: skip


def _daemon(settings: Settings) -> Service:
    return Service(
        name="dagster-daemon",
        stage=CONSUMERS,
        address="",
        ready=partial(probes.dagster_daemon, settings),
        command=(
            sys.executable, "-m", "dagster._daemon", "run",
            "--workspace", str(settings.home / "dagster" / "workspace.yaml"),
        ),
        environment=_dagster_environment(settings),
    )  # fmt: skip


def _emitter(settings: Settings) -> Service:
    port = _url_port("KP_EMITTER_URL", settings.emitter_url)
    return Service(
        name="emitter",
        stage=CONSUMERS,
        address=settings.emitter_url,
        ready=partial(probes.emitter, settings),
        ports=(port,),
        command=(sys.executable, "-m", "web_emitter"),
        environment={"PYTHONUNBUFFERED": "1"},
    )
