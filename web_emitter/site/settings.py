"""The settings of the site, in addition to those of the emitter library.

Belongs here: settings of the server, the pages and the notes. Does not belong here: what an
application needs to publish its accesses (`emitter/settings.py`).
"""

from urllib.parse import urlsplit

from pydantic import Field, SecretStr, field_validator

from web_emitter.contract import FULL_TEXT_TOPIC
from web_emitter.emitter.settings import EmitterSettings, ProducerSettings, librdkafka_options


class SiteSettings(EmitterSettings):
    """The effective settings of `python -m web_emitter`."""

    emitter_workers: int = Field(
        default=1,
        ge=1,
        le=64,
        description="Number of processes of the web emitter, each with its own spool.",
    )
    emitter_fulltext_options: SecretStr = Field(
        default=SecretStr("{}"),
        description="Additional librdkafka options for the full-text events, a JSON object.",
    )
    emitter_search_timeout_seconds: float = Field(
        default=2.0, gt=0, le=60, description="Timeout of a page's requests to Elasticsearch."
    )

    @field_validator("emitter_fulltext_options")
    @classmethod
    def _are_full_text_options(cls, value: SecretStr) -> SecretStr:
        librdkafka_options(value)
        return value

    @property
    def full_text(self) -> ProducerSettings:
        """The binding of the notes."""
        return self.producer(FULL_TEXT_TOPIC, self.emitter_fulltext_options)

    @property
    def elasticsearch_address(self) -> str:
        """The URL without user and password, for a page."""
        parts = urlsplit(self.elasticsearch_url)
        return parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()
