"""Trino of the local stack: the coordinator, its workers, and what its catalogs read.

Belongs here: all that is particular to the local Trino. Does not belong here: calls to Trino
(`adapters/trino.py`), and the catalogs themselves (`presto_etc/`).
"""

import hashlib
import json
import secrets as random
from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import quote

from kp_platform.local import kafka, machine, state, tls
from kp_platform.local.artifacts import distribution_folder
from kp_platform.local.errors import StackError
from kp_platform.local.service import LOOPBACK, SERVERS, Port, Service, url_port
from kp_platform.local.settings import LocalSettings

NAME = "trino"
WORKER_MEMORY = 1_500_000_000
TRUST_PASSWORD = "public"
"""Java requires a password for a file of certificates, which holds no secret."""
_ITERATIONS = 10_000  # of a random password: more would only cost Trino time


def services(settings: LocalSettings) -> tuple[Service, ...]:
    """The coordinator, which runs tasks unless there are workers. Workers listen on the ports after
    its own. Raises StackError for settings that no local Trino supports."""
    declare = partial(
        Service,
        name=NAME,
        stage=SERVERS,
        address=settings.trino_url,
        ready=partial(_ready, settings),
    )
    if NAME in settings.external_services:
        return (declare(),)
    scheme = tls.own_scheme(settings, settings.trino_url, "http", "https")
    port = url_port("KP_TRINO_URL", settings.trino_url, NAME, scheme)
    if settings.trino_workers and scheme == "https":
        raise StackError(
            "KP_TRINO_WORKERS: a local coordinator with https supports no workers, set it to 0"
        )
    options = {"node-scheduler.include-coordinator": "false"} if settings.trino_workers else {}
    if scheme == "https":
        options |= _https_options(settings, port.number)
    coordinator = declare(
        prepare=partial(_prepare, settings), **_node(settings, NAME, port, options)
    )
    return (coordinator, *_workers(settings, port))


def _workers(settings: LocalSettings, coordinator: Port) -> Iterator[Service]:
    for number in range(1, settings.trino_workers + 1):
        name, port = f"{NAME}-worker-{number}", coordinator.number + number
        url = f"http://{LOOPBACK}:{port}"
        yield Service(
            name=name,
            stage=SERVERS,
            address=url,
            ready=partial(_worker_ready, settings, url),
            extra_memory=WORKER_MEMORY,
            prepare=partial(_prepare_folder, settings, name),
            **_node(settings, name, replace(coordinator, number=port), {"coordinator": "false"}),
        )


def _node(
    settings: LocalSettings, name: str, port: Port, options: Mapping[str, str]
) -> dict[str, Any]:
    """The fields of a Service that coordinator and workers share."""
    options = {"node.bind-ip": LOOPBACK, "node.internal-address": LOOPBACK, **options}
    command = (
        str(distribution_folder(NAME, settings.cache) / "bin" / "launcher"),
        "-jvm-dir", str(machine.JAVA_HOME),
        "-etc-dir", str(settings.presto_folder),
        "-data-dir", str(settings.home / name),
        *(argument for name, value in options.items() for argument in ("-D", f"{name}={value}")),
        "run",
    )  # fmt: skip
    return {"ports": (port,), "command": command, "environment": _environment(settings, port)}


def _environment(settings: LocalSettings, port: Port) -> dict[str, str]:
    is_plain = settings.kafka_security_protocol == "PLAINTEXT"
    files = ("kafka-client",) if is_plain else ("kafka-client", "kafka-security")
    environment = {
        "KP_TRINO_PORT": str(port.number),
        "KP_KAFKA_TABLES": kafka_tables(settings),
        "KP_KAFKA_CLIENT_FILES": ",".join(f"etc/{name}.properties" for name in files),
        "KP_MYSQL_OPTIONS": _mysql_options(settings),
    }
    if not is_plain:
        environment["KP_CA_FILE"] = settings.trusted_ca_file
    return environment


def kafka_tables(settings: LocalSettings) -> str:
    """The tables of the table files, as Trino's catalog expects their names."""
    files = sorted((settings.presto_folder / "kafka").glob("*.json"))
    if not files:
        raise StackError(
            f"KP_PRESTO_ETC: {settings.presto_folder} has no table file in kafka/: add one, or set "
            "another folder"
        )
    described = [json.loads(path.read_text(encoding="utf-8")) for path in files]
    return ",".join(f"{each['schemaName']}.{each['tableName']}" for each in described)


def _mysql_options(settings: LocalSettings) -> str:
    """The parameters of the JDBC URL of Trino's MySQL catalog."""
    if not settings.mysql_tls:
        return "allowPublicKeyRetrieval=true&sslMode=DISABLED"
    store = quote(str(_trust_store_file(settings)))
    return (
        f"sslMode=VERIFY_IDENTITY&trustCertificateKeyStoreUrl=file:{store}"
        f"&trustCertificateKeyStoreType=PKCS12&trustCertificateKeyStorePassword={TRUST_PASSWORD}"
    )


def _https_options(settings: LocalSettings, port: int) -> dict[str, str]:
    """A Trino that listens with TLS only and requires a password."""
    return {
        "http-server.http.enabled": "false",
        "http-server.https.enabled": "true",
        "http-server.https.port": str(port),
        "http-server.https.keystore.path": str(tls.certificate_file(settings)),
        "http-server.authentication.type": "PASSWORD",
        "password-authenticator.config-files": str(_authenticator_file(settings)),
        "internal-communication.https.required": "true",
        "internal-communication.https.truststore.path": str(tls.authority_file(settings)),
        "internal-communication.shared-secret": "${ENV:KP_TRINO_SHARED_SECRET}",
    }


def _trust_store_file(settings: LocalSettings) -> Path:
    return settings.home / NAME / "ca.p12"


def _authenticator_file(settings: LocalSettings) -> Path:
    return settings.home / NAME / "password-authenticator.properties"


def _ready(settings: LocalSettings) -> None:
    from kp_platform.adapters.trino import TrinoAdapter

    TrinoAdapter(settings).probe()


def _worker_ready(settings: LocalSettings, url: str) -> None:
    """The coordinator schedules tasks on it."""
    from kp_platform.adapters.trino import TrinoAdapter

    TrinoAdapter(settings).probe_worker(url)


def _prepare(settings: LocalSettings) -> None:
    _prepare_folder(settings, NAME)
    if settings.mysql_tls:
        authorities = Path(settings.trusted_ca_file).read_bytes()
        _trust_store_file(settings).write_bytes(_trust_store(authorities))
    if settings.trino_url.startswith("https:"):
        users = settings.home / NAME / "users"
        users.touch(mode=0o600)
        password = settings.trino_password.get_secret_value()
        users.write_text(f"{settings.trino_user}:{password_hash(password)}\n", encoding="utf-8")
        state.render(
            "password-authenticator.properties", _authenticator_file(settings), users=users
        )


def _prepare_folder(settings: LocalSettings, name: str) -> None:
    (settings.home / name).mkdir(exist_ok=True)


def _trust_store(pem: bytes) -> bytes:
    """The certificates of a PEM file in the format of MySQL's Java client."""
    from cryptography import x509
    from cryptography.hazmat.primitives.serialization import BestAvailableEncryption, pkcs12

    certificates = [
        pkcs12.PKCS12Certificate(each, str(number).encode())
        for number, each in enumerate(x509.load_pem_x509_certificates(pem))
    ]
    encryption = BestAvailableEncryption(TRUST_PASSWORD.encode())
    return pkcs12.serialize_java_truststore(certificates, encryption)


def password_hash(password: str) -> str:
    """PBKDF2 in the format of Trino's password file: iterations:salt:hash, in hex."""
    salt = random.token_bytes(16)
    key = hashlib.pbkdf2_hmac("sha1", password.encode(), salt, _ITERATIONS, dklen=32)
    return f"{_ITERATIONS}:{salt.hex()}:{key.hex()}"


def secrets(settings: LocalSettings) -> dict[str, str]:
    """The variables that config.properties and kafka-security.properties read."""
    return {
        "KP_KAFKA_TRINO_LOGIN": kafka_login(settings),
        "KP_TRINO_SHARED_SECRET": _shared_secret(settings),
    }


def kafka_login(settings: LocalSettings) -> str:
    """The login of the local Trino's Kafka catalog as JAAS; empty when Kafka requires none."""
    is_external = NAME in settings.external_services
    if is_external or not settings.kafka_security_protocol.startswith("SASL_"):
        return ""
    if not settings.kafka_trino_user:
        raise StackError("KP_KAFKA_TRINO_USER is empty, and Trino has to log in to Kafka: set it")
    return kafka.jaas(
        settings.kafka_sasl_mechanism, settings.kafka_trino_user, settings.kafka_trino_password, {}
    )


def _shared_secret(settings: LocalSettings) -> str:
    """The secret between Trino's nodes: the same at each start, and the password of no user."""
    password = settings.trino_password.get_secret_value()
    return hashlib.sha256(f"between nodes: {password}".encode()).hexdigest() if password else ""
