"""What `kp up --secure` generates for a new stack: a certificate, users and passwords.

Belongs here: generated values. Does not belong here: how a server uses them (that server's module),
and connections (`adapters/`).
The authority signs one certificate, for 127.0.0.1, and its key is not stored: nobody can sign
another certificate that this stack trusts.
"""

import secrets
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path
from urllib.parse import urlsplit

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey, generate_private_key
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from kp_platform.local.errors import StackError
from kp_platform.local.service import LOOPBACK
from kp_platform.local.settings import LocalSettings
from kp_platform.local.tls import authority_file

_VALID = timedelta(days=3_650)


def refuse_external(settings: LocalSettings) -> None:
    """Raises StackError when a server runs elsewhere: its users are not created here."""
    if settings.external:
        raise StackError(
            "KP_EXTERNAL: `kp up --secure` creates users on all five local servers: unset it, or "
            "secure external servers by settings, see docs/how-to/security.md"
        )


def secure_settings(settings: LocalSettings) -> dict[str, str]:
    """The settings of a secure stack. Writes its certificate to KP_HOME."""
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


def _password() -> str:
    """24 random bytes, in characters that need no quoting."""
    return secrets.token_hex(24)


def write_certificate(home: Path) -> None:
    """Write an authority to `tls/ca.pem`; key and certificate of servers to `tls/server.pem`."""
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
    """RSA: MySQL 8.0.12 supports no cipher for an elliptic key (verified)."""
    return generate_private_key(public_exponent=65_537, key_size=2_048)


def _name(common_name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)])


def _builder(subject: x509.Name, issuer: x509.Name, key: RSAPrivateKey) -> x509.CertificateBuilder:
    begin = datetime.now(UTC) - timedelta(days=1)  # for a clock that is behind
    return x509.CertificateBuilder(
        issuer, subject, key.public_key(), x509.random_serial_number(), begin, begin + _VALID
    )
