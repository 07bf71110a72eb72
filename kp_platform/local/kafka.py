"""Kafka of the local stack: its brokers, which are the controllers too, and its users.

Belongs here: all that is particular to the local Kafka. Does not belong here: calls to Kafka
(`adapters/kafka.py`).
"""

import base64
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import SecretStr

from kp_platform.local import machine, state, tls
from kp_platform.local.artifacts import distribution_folder
from kp_platform.local.errors import StackError
from kp_platform.local.service import SERVERS, Port, Service, local_port, quoted
from kp_platform.local.settings import LocalSettings

if TYPE_CHECKING:
    from kp_platform.adapters.kafka import Grant

NAME = "kafka"
BROKER_MEMORY = 500_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Broker:
    """A broker of this machine, which is a controller too."""

    name: str
    node: int
    address: str
    listener: Port
    controller: Port


def brokers(settings: LocalSettings) -> tuple[Broker, ...]:
    """One for each address of KP_KAFKA_BOOTSTRAP_SERVERS. Their controllers listen on
    KP_KAFKA_CONTROLLER_PORT and the ports after it."""
    addresses = settings.kafka_bootstrap_servers.split(",")
    return tuple(
        Broker(
            name=NAME if node == 1 else f"{NAME}-{node}",
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
    return local_port("KP_KAFKA_BOOTSTRAP_SERVERS", host, number, NAME)


def services(settings: LocalSettings) -> tuple[Service, ...]:
    """The brokers. Raises StackError for settings that no local broker supports."""
    if NAME in settings.external_services:
        address = settings.kafka_bootstrap_servers
        return (
            Service(name=NAME, stage=SERVERS, address=address, ready=partial(_ready, settings)),
        )
    certificate(settings)
    return tuple(
        Service(
            name=broker.name,
            stage=SERVERS,
            address=broker.address,
            ready=partial(_broker_ready, settings, broker.address),
            ports=(broker.listener, broker.controller),
            command=_java(settings, "kafka.Kafka", str(_config(settings, broker)), heap="512m"),
            extra_memory=0 if broker.node == 1 else BROKER_MEMORY,
            prepare=partial(prepare, settings, broker),
        )
        for broker in brokers(settings)
    )


def _java(settings: LocalSettings, main: str, *arguments: str, heap: str) -> tuple[str, ...]:
    jars = distribution_folder(NAME, settings.cache)
    options = (f"-Xmx{heap}", "-XX:+UseG1GC", "-XX:+ExitOnOutOfMemoryError", "-Duser.timezone=UTC")
    return (str(machine.JAVA), *options, "-cp", f"{jars}/*", main, *arguments)


def _config(settings: LocalSettings, broker: Broker) -> Path:
    return settings.home / broker.name / "server.properties"


def _ready(settings: LocalSettings) -> None:
    from kp_platform.adapters.kafka import KafkaAdapter

    KafkaAdapter(settings).probe()


def _broker_ready(settings: LocalSettings, address: str) -> None:
    """This broker answers and is part of the cluster."""
    from kp_platform.adapters.kafka import KafkaAdapter

    one = settings.model_copy(update={"kafka_bootstrap_servers": address})
    KafkaAdapter(one).probe_broker()


def prepare(settings: LocalSettings, broker: Broker) -> None:
    """Write the configuration of a broker, and format its storage once."""
    nodes = brokers(settings)
    voters = (f"{each.node}@127.0.0.1:{each.controller.number}" for each in nodes)
    replicas = min(3, len(nodes))
    config = _config(settings, broker)
    state.render(
        "server.properties",
        config,
        node=broker.node,
        port=broker.listener.number,
        controller_port=broker.controller.number,
        data=config.with_name("data"),
        voters=",".join(voters),
        replicas=replicas,
        in_sync=max(1, replicas - 1),  # one broker may be down
        protocol=settings.kafka_security_protocol,
        security=_security(settings),
    )
    if not (config.with_name("data") / "meta.properties").exists():
        _format(settings, broker.name, config)


def _format(settings: LocalSettings, name: str, config: Path) -> None:
    """All brokers of a KP_HOME have the same cluster id, including those that a later `kp up`
    formats."""
    # A cluster id is 16 bytes in base64; Kafka generates none that starts with a dash.
    home = uuid.uuid5(uuid.NAMESPACE_URL, settings.home.as_uri())
    cluster = base64.urlsafe_b64encode(home.bytes).decode().rstrip("=")
    arguments = ("format", "--ignore-formatted", "-t", f"k{cluster[1:]}", "-c", str(config))
    state.run_initialization(
        name, _java(settings, "kafka.tools.StorageTool", *arguments, heap="128m")
    )


def _security(settings: LocalSettings) -> str:
    pem = certificate(settings)
    if pem is None:
        return ""
    return state.filled(
        "server-security.properties",
        certificate=pem,
        authority=tls.authority_file(settings),
        admin=settings.kafka_admin_user,
    )


def certificate(settings: LocalSettings) -> Path | None:
    """None for a PLAINTEXT broker. Raises StackError for a protocol that no local broker has."""
    protocol, mechanism = settings.kafka_security_protocol, settings.kafka_sasl_mechanism
    if protocol == "PLAINTEXT":
        return None
    if (protocol, mechanism) != ("SASL_SSL", "PLAIN"):
        raise StackError(
            f"KP_KAFKA_SECURITY_PROTOCOL is {protocol} with {mechanism}: add kafka to KP_EXTERNAL "
            "if it runs there, or use SASL_SSL with PLAIN, as `kp up --secure` does, or PLAINTEXT"
        )
    return tls.require_certificate(settings, "KP_KAFKA_SECURITY_PROTOCOL", protocol, NAME)


def secrets(settings: LocalSettings) -> dict[str, str]:
    """The variable that server-security.properties reads."""
    return {"KP_KAFKA_USERS": users(settings)}


def users(settings: LocalSettings) -> str:
    """The users of the local brokers, and the login of a broker itself, as JAAS."""
    is_external = NAME in settings.external_services
    if is_external or settings.kafka_security_protocol == "PLAINTEXT":
        return ""
    passwords = {
        settings.kafka_admin_user: settings.kafka_admin_password,
        settings.kafka_user: settings.kafka_password,
        settings.kafka_trino_user: settings.kafka_trino_password,
        settings.emitter_kafka_user: settings.emitter_kafka_password,
    }
    options = {f"user_{name}": password for name, password in passwords.items()}
    return jaas("PLAIN", settings.kafka_admin_user, settings.kafka_admin_password, options)


def jaas(mechanism: str, user: str, password: SecretStr, options: Mapping[str, SecretStr]) -> str:
    """A login of Kafka, with further options of its module, as JAAS."""
    name = "plain.PlainLoginModule" if mechanism == "PLAIN" else "scram.ScramLoginModule"
    values = {"username": user, "password": password.get_secret_value()}
    values |= {key: secret.get_secret_value() for key, secret in options.items()}
    text = " ".join(f"{key}={quoted(value)}" for key, value in values.items())
    return f"org.apache.kafka.common.security.{name} required {text};"


def grants(settings: LocalSettings) -> "tuple[Grant, ...]":
    """The rights of each user. READ and WRITE on a topic include DESCRIBE."""
    from kp_platform.adapters.kafka import Grant
    from kp_platform.adapters.reference_changes import TOPIC as CHANGES
    from kp_platform.flows.builtin import ACCESS_LOG, FLOWS, FULL_TEXT

    topics = [flow.topic for flow in FLOWS]
    published = (ACCESS_LOG.topic, FULL_TEXT.topic)
    return (
        *(Grant(settings.kafka_user, "READ", topic) for topic in topics),
        Grant(settings.kafka_user, "WRITE", CHANGES),
        Grant(settings.kafka_user, "READ", "kp-", of_groups=True),
        *(Grant(settings.kafka_trino_user, "READ", topic) for topic in topics),
        *(Grant(settings.emitter_kafka_user, "WRITE", topic) for topic in published),
        # The emitter's pages show the lag.
        *(Grant(settings.emitter_kafka_user, "DESCRIBE", topic) for topic in topics),
    )


def create_topics(settings: LocalSettings) -> list[str]:
    """Create the flows' topics that do not exist, and on local brokers with users grant the rights;
    returns the names of the new topics. Raises ServerDown."""
    from kp_platform.adapters.kafka import KafkaAdapter
    from kp_platform.flows.builtin import FLOWS

    adapter = KafkaAdapter(
        settings,
        admin_user=settings.kafka_admin_user,
        admin_password=settings.kafka_admin_password,
    )
    if NAME not in settings.external_services and certificate(settings):
        adapter.allow(grants(settings))
    return adapter.create_topics({flow.topic: settings.topic_partitions for flow in FLOWS})
