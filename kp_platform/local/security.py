"""How the local servers are secured: certificate, users and logins, as arguments and configuration.

Belongs here: what a server of a secure stack is given beside what each is given (`servers.py`).
Does not belong here: what `kp up --secure` makes up (`secure.py`), and clients (`resources/`).
A secret is returned to stand in the environment of one server; none is in an argument or a file.
"""

import hashlib
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import quote

from pydantic import SecretStr

from kp_platform.local.errors import StackError
from kp_platform.settings import Settings

TRUST_PASSWORD = "public"
"""Java wants a password for a file of certificates, which holds no secret."""


def authority_file(settings: Settings) -> Path:
    return settings.home / "tls" / "ca.pem"


def certificate_file(settings: Settings) -> Path:
    """Key and certificate of the servers of a secure stack."""
    return settings.home / "tls" / "server.pem"


def _is_secure(settings: Settings) -> bool:
    return certificate_file(settings).is_file()


def need_certificate(settings: Settings, setting: str, value: str, service: str) -> Path:
    if not _is_secure(settings):
        raise StackError(
            f"{setting} is {value}: name {service} in KP_EXTERNAL if it runs there, or make a "
            "stack that has a certificate: `kp up --secure`"
        )
    return certificate_file(settings)


def own_scheme(settings: Settings, url: str, plain: str, encrypted: str) -> str:
    """The scheme that a local server may have: with TLS only where there is a certificate."""
    return encrypted if _is_secure(settings) and url.startswith(f"{encrypted}:") else plain


def kafka_certificate(settings: Settings) -> Path | None:
    """None for a broker that speaks PLAINTEXT. Raises StackError for what none here speaks."""
    protocol, mechanism = settings.kafka_security_protocol, settings.kafka_sasl_mechanism
    if protocol == "PLAINTEXT":
        return None
    if (protocol, mechanism) != ("SASL_SSL", "PLAIN"):
        raise StackError(
            f"KP_KAFKA_SECURITY_PROTOCOL is {protocol} with {mechanism}: name kafka in KP_EXTERNAL "
            "if it runs there, or use SASL_SSL with PLAIN, as `kp up --secure` does, or PLAINTEXT"
        )
    return need_certificate(settings, "KP_KAFKA_SECURITY_PROTOCOL", protocol, "kafka")


def kafka_users(settings: Settings) -> str:
    """Who may log in to the local brokers, and the login of a broker itself, as JAAS."""
    is_external = "kafka" in settings.external_services
    if is_external or settings.kafka_security_protocol == "PLAINTEXT":
        return ""
    users = {
        settings.kafka_admin_user: settings.kafka_admin_password,
        settings.kafka_user: settings.kafka_password,
        settings.kafka_trino_user: settings.kafka_trino_password,
        settings.emitter_kafka_user: settings.emitter_kafka_password,
    }
    known = {f"user_{name}": password for name, password in users.items()}
    return _jaas("PLAIN", settings.kafka_admin_user, settings.kafka_admin_password, known)


def kafka_trino_login(settings: Settings) -> str:
    """The login of the local Trino's catalog as JAAS; empty when Kafka asks for none."""
    is_external = "trino" in settings.external_services
    if is_external or not settings.kafka_security_protocol.startswith("SASL_"):
        return ""
    if not settings.kafka_trino_user:
        raise StackError("KP_KAFKA_TRINO_USER is empty, and Trino has to log in to Kafka: set it")
    return _jaas(
        settings.kafka_sasl_mechanism, settings.kafka_trino_user, settings.kafka_trino_password, {}
    )


def _jaas(mechanism: str, user: str, password: SecretStr, more: Mapping[str, SecretStr]) -> str:
    name = "plain.PlainLoginModule" if mechanism == "PLAIN" else "scram.ScramLoginModule"
    options = {"username": user, "password": password.get_secret_value()}
    options |= {key: secret.get_secret_value() for key, secret in more.items()}
    said = " ".join(f"{key}={quoted(value)}" for key, value in options.items())
    return f"org.apache.kafka.common.security.{name} required {said};"


def quoted(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'


def mysql_tls_arguments(settings: Settings) -> tuple[str, ...]:
    if not settings.mysql_tls:
        return ()
    certificate = need_certificate(settings, "KP_MYSQL_TLS", "true", "mysql")
    return (
        f"--ssl-ca={authority_file(settings)}",
        f"--ssl-cert={certificate}",
        f"--ssl-key={certificate}",
        "--tls-version=TLSv1.2",
        "--require-secure-transport=ON",
    )


def mysql_options(settings: Settings) -> str:
    """What Trino's catalog adds to the address of MySQL."""
    if not settings.mysql_tls:
        return "allowPublicKeyRetrieval=true&sslMode=DISABLED"
    store = quote(str(trust_store_file(settings)))
    return (
        f"sslMode=VERIFY_IDENTITY&trustCertificateKeyStoreUrl=file:{store}"
        f"&trustCertificateKeyStoreType=PKCS12&trustCertificateKeyStorePassword={TRUST_PASSWORD}"
    )


def trust_store_file(settings: Settings) -> Path:
    return settings.home / "trino" / "ca.p12"


def trino_https(settings: Settings, port: int) -> dict[str, str]:
    """What makes a Trino that listens with TLS only and asks for a password."""
    return {
        "http-server.http.enabled": "false",
        "http-server.https.enabled": "true",
        "http-server.https.port": str(port),
        "http-server.https.keystore.path": str(certificate_file(settings)),
        "http-server.authentication.type": "PASSWORD",
        "password-authenticator.config-files": str(trino_login_config(settings)),
        "internal-communication.https.required": "true",
        "internal-communication.https.truststore.path": str(authority_file(settings)),
        "internal-communication.shared-secret": "${ENV:KP_TRINO_SHARED_SECRET}",
    }


def trino_login_config(settings: Settings) -> Path:
    return settings.home / "trino" / "password-authenticator.properties"


def trino_shared_secret(settings: Settings) -> str:
    """How nodes of Trino know each other: the same at each start, and no password of anybody."""
    password = settings.trino_password.get_secret_value()
    return hashlib.sha256(f"between nodes: {password}".encode()).hexdigest() if password else ""
