"""The settings of the site: bounds, secrets, the two bindings."""

from pathlib import Path

import pytest
from pydantic import ValidationError

from web_emitter.site.settings import SiteSettings


def test_every_setting_has_a_description() -> None:
    assert [
        name for name, field in SiteSettings.model_fields.items() if not field.description
    ] == []


def test_each_topic_has_its_own_binding_with_the_options_of_the_example(
    monkeypatch: pytest.MonkeyPatch, settings: SiteSettings
) -> None:
    monkeypatch.setenv("KP_EMITTER_FULLTEXT_OPTIONS", '{"client.id": "text", "acks": "1"}')
    settings = SiteSettings()
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


def test_every_producer_uses_the_emitters_user_over_tls(
    monkeypatch: pytest.MonkeyPatch, settings: SiteSettings, tmp_path: Path
) -> None:
    own = tmp_path / "ca.pem"
    own.touch()
    monkeypatch.setenv("KP_CA_FILE", str(own))
    monkeypatch.setenv("KP_KAFKA_SECURITY_PROTOCOL", "SASL_SSL")
    with pytest.raises(ValidationError, match="KP_EMITTER_KAFKA_USER: SASL_SSL .* needs a user"):
        SiteSettings()
    monkeypatch.setenv("KP_EMITTER_KAFKA_USER", "emitter")
    monkeypatch.setenv("KP_EMITTER_KAFKA_PASSWORD", "hunter2")
    settings = SiteSettings()
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
    monkeypatch: pytest.MonkeyPatch, settings: SiteSettings
) -> None:
    monkeypatch.setenv("KP_EMITTER_ACCESS_OPTIONS", '{"sasl.password": "hunter2"}')
    monkeypatch.setenv("KP_ELASTICSEARCH_URL", "https://elastic:hunter2@search.test:9200/")
    settings = SiteSettings()
    assert settings.access_log.librdkafka()["sasl.password"] == "hunter2"
    assert settings.elasticsearch_address == "https://search.test:9200"
    assert "hunter2" not in repr(settings) + repr(settings.access_log)


def test_an_error_does_not_repeat_the_value_which_may_contain_a_password(
    monkeypatch: pytest.MonkeyPatch, settings: SiteSettings
) -> None:
    monkeypatch.setenv("KP_ELASTICSEARCH_URL", "elastic:hunter2@search.test")
    with pytest.raises(ValidationError, match="is not of the form http://HOST:PORT") as error:
        SiteSettings()
    assert "hunter2" not in str(error.value)


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
def test_an_invalid_value_is_rejected_with_the_name_of_its_setting(
    monkeypatch: pytest.MonkeyPatch, settings: SiteSettings, variable: str, value: str
) -> None:
    monkeypatch.setenv(variable, value)
    with pytest.raises(ValidationError, match=variable.removeprefix("KP_").lower()):
        SiteSettings()
