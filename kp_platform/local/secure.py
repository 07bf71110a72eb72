"""What `kp up --secure` makes up for a fresh stack: a certificate, users, passwords, and who may do
what.

Belongs here: values. Does not belong here: how a server is started with them (`servers.py`,
`state.py`), and the connections (`resources/`).
The authority signs one certificate, for 127.0.0.1, and its key is thrown away: nobody can sign
another one that this stack would trust.
"""

import hashlib
import secrets
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path
from urllib.parse import urlsplit

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey, generate_private_key
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
    pkcs12,
)
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from kp_platform.adapters.kafka_admin import Grant
from kp_platform.adapters.reference_changes import TOPIC as CHANGES
from kp_platform.flows.builtin import ACCESS_LOG, FLOWS, FULL_TEXT
from kp_platform.local.errors import StackError
from kp_platform.local.security import TRUST_PASSWORD, authority_file
from kp_platform.local.servers import LOOPBACK
from kp_platform.settings import Settings

_ITERATIONS = 10_000  # of a random password: more would only cost Trino time
_VALID = timedelta(days=3_650)


def refuse_external(settings: Settings) -> None:
    """Raises StackError when a server is not ours to make users on."""
    if settings.external:
        raise StackError(
            "KP_EXTERNAL: `kp up --secure` makes users of its own on all five servers; servers of "
            "yours are secured by settings, see docs/how-to/security.md"
        )


def secured(settings: Settings) -> dict[str, str]:
    """The settings of a secure stack, its certificate written to KP_HOME."""
    write_certificate(settings.home)
    redis = urlsplit(settings.redis_url.get_secret_value())
    login = f"kp_platform:{_password()}"
    trino = urlsplit(settings.trino_url)
    return {
        "KP_PORT_OFFSET": str(settings.port_offset),
        "KP_CA_FILE": str(authority_file(settings)),
        "KP_KAFKA_SECURITY_PROTOCOL": "SASL_SSL",
        "KP_KAFKA_SASL_MECHANISM": "PLAIN",
        "KP_KAFKA_USER": "kp_platform",
        "KP_KAFKA_PASSWORD": _password(),
        "KP_KAFKA_TRINO_USER": "kp_trino",
        "KP_KAFKA_TRINO_PASSWORD": _password(),
        "KP_EMITTER_KAFKA_USER": "kp_emitter",
        "KP_EMITTER_KAFKA_PASSWORD": _password(),
        "KP_KAFKA_ADMIN_USER": "kp_admin",
        "KP_KAFKA_ADMIN_PASSWORD": _password(),
        "KP_TRINO_URL": trino._replace(scheme="https").geturl(),
        "KP_TRINO_PASSWORD": _password(),
        "KP_MYSQL_TLS": "true",
        "KP_MYSQL_PASSWORD": _password(),
        "KP_MYSQL_TRINO_PASSWORD": _password(),
        "KP_REDIS_URL": redis._replace(scheme="rediss", netloc=f"{login}@{redis.netloc}").geturl(),
        "KP_REDIS_TRINO_USER": "kp_trino",
        "KP_REDIS_TRINO_PASSWORD": _password(),
    }


def hashed(password: str) -> str:
    """PBKDF2 as Trino's password file has it: iterations:salt:hash, in hex."""
    salt = secrets.token_bytes(16)
    key = hashlib.pbkdf2_hmac("sha1", password.encode(), salt, _ITERATIONS, dklen=32)
    return f"{_ITERATIONS}:{salt.hex()}:{key.hex()}"


def _password() -> str:
    """24 random bytes, of characters that need no quoting anywhere."""
    return secrets.token_hex(24)


def grants(settings: Settings) -> tuple[Grant, ...]:
    """What each user of Kafka may do. Whoever may read or write a topic may describe it."""
    topics = [flow.topic for flow in FLOWS]
    emitted = (ACCESS_LOG.topic, FULL_TEXT.topic)
    return (
        *(Grant(settings.kafka_user, "READ", topic) for topic in topics),
        Grant(settings.kafka_user, "WRITE", CHANGES),
        Grant(settings.kafka_user, "READ", "kp-", of_groups=True),
        *(Grant(settings.kafka_trino_user, "READ", topic) for topic in topics),
        *(Grant(settings.emitter_kafka_user, "WRITE", topic) for topic in emitted),
        # Its pages tell of the lag.
        *(Grant(settings.emitter_kafka_user, "DESCRIBE", topic) for topic in topics),
    )


def write_certificate(home: Path) -> None:
    """An authority in `tls/ca.pem`, and below it key and certificate of all servers."""
    authority_key, server_key = _key(), _key()
    name = _name("kp_platform stack")
    authority = (
        _builder(name, name, authority_key)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_SIGNS_CERTIFICATES, critical=True)
        .add_extension(
            x509.SubjectKeyIdentifier.from_public_key(authority_key.public_key()), critical=False
        )
        .sign(authority_key, hashes.SHA256())
    )
    names = [x509.IPAddress(ip_address(LOOPBACK)), x509.DNSName("localhost")]
    usage = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH])
    issuer = x509.AuthorityKeyIdentifier.from_issuer_public_key(authority_key.public_key())
    server = (
        _builder(_name(LOOPBACK), name, server_key)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .add_extension(usage, critical=False)
        .add_extension(issuer, critical=False)
        .sign(authority_key, hashes.SHA256())
    )
    folder = home / "tls"
    folder.mkdir(mode=0o700)
    secret = server_key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    (folder / "ca.pem").write_bytes(authority.public_bytes(Encoding.PEM))
    (folder / "server.pem").touch(mode=0o600)
    (folder / "server.pem").write_bytes(secret + server.public_bytes(Encoding.PEM))


_SIGNS_CERTIFICATES = x509.KeyUsage(
    digital_signature=False,
    content_commitment=False,
    key_encipherment=False,
    data_encipherment=False,
    key_agreement=False,
    key_cert_sign=True,
    crl_sign=False,
    encipher_only=False,
    decipher_only=False,
)


def _key() -> RSAPrivateKey:
    """RSA, for MySQL 8.0.12 offers no cipher for an elliptic key [ran]."""
    return generate_private_key(public_exponent=65_537, key_size=2_048)


def _name(common_name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)])


def _builder(subject: x509.Name, issuer: x509.Name, key: RSAPrivateKey) -> x509.CertificateBuilder:
    begin = datetime.now(UTC) - timedelta(days=1)  # a clock that is a little behind
    return x509.CertificateBuilder(
        issuer, subject, key.public_key(), x509.random_serial_number(), begin, begin + _VALID
    )


def trust_store(pem: bytes) -> bytes:
    """The certificates of a PEM file as MySQL's Java client reads them."""
    certificates = x509.load_pem_x509_certificates(pem)
    named: Sequence[pkcs12.PKCS12Certificate] = [
        pkcs12.PKCS12Certificate(each, str(number).encode())
        for number, each in enumerate(certificates)
    ]
    encryption = BestAvailableEncryption(TRUST_PASSWORD.encode())
    return pkcs12.serialize_java_truststore(named, encryption)
