"""Settings: the same names and defaults as the platform's, bounds, secrets, the two bindings."""

from pathlib import Path

import pytest
from pydantic import ValidationError

from kp_platform.settings import Settings as PlatformSettings
from web_emitter.emitter.settings import Settings

SHARED = (
    "home",
    "port_offset",
    "kafka_bootstrap_servers",
    "ca_file",
    "kafka_security_protocol",
    "kafka_sasl_mechanism",
    "emitter_kafka_user",
    "emitter_kafka_password",
    "elasticsearch_url",
    "elasticsearch_api_key",
    "dagster_url",
    "emitter_url",
)


@pytest.mark.parametrize("port_offset", [0, 700])
def test_the_platform_and_the_emitter_agree_on_shared_settings(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, port_offset: int
) -> None:
    monkeypatch.setenv("KP_PORT_OFFSET", str(port_offset))
    monkeypatch.setitem(PlatformSettings.model_config, "env_file", None)
    emitter, platform = Settings(), PlatformSettings()
    for name in SHARED:
        assert getattr(emitter, name) == getattr(platform, name), name


def test_every_setting_has_a_description() -> None:
    assert [name for name, field in Settings.model_fields.items() if not field.description] == []


def test_each_topic_has_its_own_binding_with_the_options_of_the_example(
    monkeypatch: pytest.MonkeyPatch, settings: Settings
) -> None:
    monkeypatch.setenv("KP_EMITTER_FULLTEXT_OPTIONS", '{"client.id": "text", "acks": "1"}')
    settings = Settings()
    assert settings.access_log.topic == "analyze.action"
    assert settings.access_log.librdkafka() == {
        "bootstrap.servers": "127.0.0.1:18092",
        "queue.buffering.max.ms": 1,
        "queue.buffering.max.messages": 1_000,
        "queue.buffering.max.kbytes": 16_384,
        "client.id": "testingClient",
        "enable.idempotence": True,
        "acks": "all",
        "message.timeout.ms": 30_000,
        "reconnect.backoff.max.ms": 1_000,
    }
    assert settings.full_text.topic == "fulltext.register"
    assert settings.full_text.librdkafka()["client.id"] == "text"
    assert settings.full_text.librdkafka()["acks"] == "1"


def test_both_sides_accept_the_same_of_a_setting_that_they_share() -> None:
    for name in SHARED:
        ours, theirs = Settings.model_fields[name], PlatformSettings.model_fields[name]
        assert ours.annotation == theirs.annotation, name


def test_every_producer_logs_in_as_the_emitters_user_over_tls(
    monkeypatch: pytest.MonkeyPatch, settings: Settings, tmp_path: Path
) -> None:
    own = tmp_path / "ca.pem"
    own.touch()
    monkeypatch.setenv("KP_CA_FILE", str(own))
    monkeypatch.setenv("KP_KAFKA_SECURITY_PROTOCOL", "SASL_SSL")
    with pytest.raises(ValidationError, match="KP_EMITTER_KAFKA_USER: SASL_SSL .* needs a user"):
        Settings()
    monkeypatch.setenv("KP_EMITTER_KAFKA_USER", "emitter")
    monkeypatch.setenv("KP_EMITTER_KAFKA_PASSWORD", "hunter2")
    settings = Settings()
    security = {
        "security.protocol": "SASL_SSL",
        "ssl.ca.location": str(own),
        "sasl.mechanism": "SCRAM-SHA-512",
        "sasl.username": "emitter",
        "sasl.password": "hunter2",
    }
    assert settings.kafka_security == security
    for binding in (settings.access_log, settings.full_text):
        assert security.items() <= binding.librdkafka().items()
    assert "hunter2" not in repr(settings) + repr(settings.access_log)


def test_options_and_the_password_of_elasticsearch_are_not_shown(
    monkeypatch: pytest.MonkeyPatch, settings: Settings
) -> None:
    monkeypatch.setenv("KP_EMITTER_ACCESS_OPTIONS", '{"sasl.password": "hunter2"}')
    monkeypatch.setenv("KP_ELASTICSEARCH_URL", "https://elastic:hunter2@search.test:9200/")
    settings = Settings()
    assert settings.access_log.librdkafka()["sasl.password"] == "hunter2"
    assert settings.elasticsearch_address == "https://search.test:9200"
    assert "hunter2" not in repr(settings) + repr(settings.access_log)


def test_a_refused_value_is_not_repeated_for_it_may_hold_a_password(
    monkeypatch: pytest.MonkeyPatch, settings: Settings
) -> None:
    monkeypatch.setenv("KP_ELASTICSEARCH_URL", "elastic:hunter2@search.test")
    with pytest.raises(ValidationError, match="not an http") as refused:
        Settings()
    assert "hunter2" not in str(refused.value)


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("KP_PORT_OFFSET", "-1"),
        ("KP_ELASTICSEARCH_URL", "localhost:9200"),  # no scheme
        ("KP_ELASTICSEARCH_URL", "http://localhost:port"),
        ("KP_EMITTER_IDENTIFY", "no_colon"),
        ("KP_EMITTER_FLUSH_SECONDS", "0"),
        ("KP_EMITTER_QUEUE_MESSAGES", "0"),
        ("KP_EMITTER_SOURCE", "with space"),  # not a URI reference
        ("KP_EMITTER_ACCESS_OPTIONS", "acks=all"),  # not JSON
        ("KP_EMITTER_ACCESS_OPTIONS", "[1]"),  # not an object
        ("KP_EMITTER_ACCESS_OPTIONS", '{"acks": ["all"]}'),  # not a scalar
    ],
)
def test_a_wrong_value_is_refused_with_the_name_of_its_setting(
    monkeypatch: pytest.MonkeyPatch, settings: Settings, variable: str, value: str
) -> None:
    monkeypatch.setenv(variable, value)
    with pytest.raises(ValidationError, match=variable.removeprefix("KP_").lower()):
        Settings()
