"""`make docs`: generates the pages of `docs/reference` and `.env.example` from the code.

Belongs here: listing settings, commands and metrics, and the layout of the pages. Does not belong
here: descriptions, which are part of the declarations.
"""

import logging
import textwrap
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import typer
from prometheus_client import CollectorRegistry
from prometheus_client.core import Metric
from prometheus_client.registry import Collector
from pydantic import SecretStr
from pydantic_settings import BaseSettings

from kp_platform.cli.main import app
from kp_platform.local.settings import LocalSettings
from kp_platform.settings import Settings
from kp_platform_tests.stack import ROOT
from kp_platform_tests.unit.web_emitter.fakes import FakeSink
from web_emitter.emitter.identity import Identity, random_demo_name
from web_emitter.emitter.ledger import Counts
from web_emitter.emitter.metrics import registry_of
from web_emitter.emitter.middleware import AccessPublisher
from web_emitter.emitter.redaction import Redaction
from web_emitter.emitter.settings import EmitterSettings
from web_emitter.site.settings import SiteSettings
from web_emitter.site.status.freshness import FlowState, Freshness, Partition
from web_emitter.site.status.metrics import IndexerCollector

WIDTH = 100
_ENV_EXAMPLE = """\
# All settings with their defaults. Copy this file to `.env`, uncomment a line and change it.
# Environment variables override `.env`. `kp config` prints the platform's effective settings.
# Restart the stack after a change: `kp down`, `kp up`. Written by `make docs`.
"""
_SETTINGS = """\
# Settings

<!-- Written by `make docs` from the settings classes. -->

Each setting is an environment variable, or a line of `.env` in the working directory of the
program. Environment variables override `.env`; an empty value counts as not set.
[`.env.example`](../../.env.example) lists all settings, and `kp config` prints the platform's
effective ones. `kp up` reads the settings once: after a change, run `kp down` and `kp up`.
"""
_COMMANDS = """\
# Commands

<!-- Written by `make docs` from kp_platform/cli. -->

`make setup` installs the command line as `.venv/bin/kp`. This is the output of `--help` for each
command:
"""
_METRICS = """\
# Metrics

<!-- Written by `make docs` from the collectors of the code. -->

The Prometheus metrics of the web emitter, by path. With several workers, each request is answered
by one of them, named by the label `worker`.
"""
_KINDS = {
    "boolean": "`True` or `False`",
    "integer": "whole number",
    "number": "number",
    "string": "text",
    "path": "path",
    "password": "secret text",
}
_BOUNDS = {
    "minimum": ">= {}",
    "exclusiveMinimum": "> {}",
    "maximum": "<= {}",
    "minLength": "at least {} characters",
    "pattern": "matches `{}`",
}


@dataclass(frozen=True, slots=True)
class Setting:
    """One setting as written in the environment; `accepted` is its type with its bounds."""

    name: str
    default: str
    accepted: str
    description: str


def settings_of(model: type[BaseSettings]) -> list[Setting]:
    """Settings in the order of the class, with its defaults, independent of the environment."""
    schema = model.model_json_schema()["properties"]
    defaults: dict[str, Any] = {}
    for name, field in model.model_fields.items():
        defaults[name] = field.get_default(call_default_factory=True, validated_data=defaults)
    return [
        Setting(
            f"KP_{name.upper()}",
            _text(default),
            accepted(schema[name]),
            schema[name]["description"],
        )
        for name, default in defaults.items()
    ]


def accepted(schema: Mapping[str, Any]) -> str:
    """The accepted values of a field, from its JSON schema."""
    if "enum" in schema:
        return " or ".join(f"`{value}`" for value in schema["enum"])
    kind = _KINDS[schema.get("format", schema["type"])]
    bounds = [text.format(schema[bound]) for bound, text in _BOUNDS.items() if bound in schema]
    return ", ".join([kind, *bounds])


def _text(default: object) -> str:
    text = default.get_secret_value() if isinstance(default, SecretStr) else str(default)
    return text.removesuffix(".0") if isinstance(default, float) else text


SETTINGS: Mapping[str, type[BaseSettings]] = {
    "platform": Settings,
    "local stack": LocalSettings,
    "web emitter": EmitterSettings,
    "site": SiteSettings,
}
"""The settings classes, by the title of their section."""


def _groups() -> dict[str, list[Setting]]:
    """Settings by section; a setting of several classes is listed in the first one's section."""
    groups: dict[str, list[Setting]] = {}
    listed: set[str] = set()
    for title, model in SETTINGS.items():
        groups[title] = [each for each in settings_of(model) if each.name not in listed]
        listed |= {each.name for each in groups[title]}
    return {title: settings for title, settings in groups.items() if settings}


def env_example() -> str:
    lines = [_ENV_EXAMPLE]
    for group, settings in _groups().items():
        lines.append(f"# --- {group} ---\n")
        for each in settings:
            comment = textwrap.wrap(each.description, WIDTH - 2, break_on_hyphens=False)
            lines += [*(f"# {line}" for line in comment), f"#{each.name}={each.default}\n"]
    return "\n".join(lines).removesuffix("\n") + "\n"


def settings_page() -> str:
    read = {each.name for each in settings_of(SiteSettings)}
    shared = [f"`{each.name}`" for each in settings_of(LocalSettings) if each.name in read]
    page = _SETTINGS
    for group, settings in _groups().items():
        rows = [
            (f"`{each.name}`", _code(each.default), each.accepted, each.description)
            for each in settings
        ]
        page += f"\n## {group.capitalize()}\n\n"
        page += _table(("setting", "default", "accepted", "meaning"), rows)
    return page + f"\nThe web emitter also reads these platform settings: {', '.join(shared)}.\n"


def commands_page() -> str:
    kp = typer.Context(typer.main.get_command(app), info_name="kp", terminal_width=WIDTH)
    return _COMMANDS + "".join(
        f"\n## `{each.command_path}`\n\n```text\n{each.command.get_help(each)}\n```\n"
        for each in _tree(kp)
    )


def _tree(context: typer.Context) -> Iterator[typer.Context]:
    """A command, then its subcommands."""
    yield context
    if isinstance(context.command, typer.core.TyperGroup):
        for name, command in context.command.commands.items():
            yield from _tree(typer.Context(command, info_name=name, parent=context))


def metrics_page() -> str:
    page = _METRICS
    for path, collector in COLLECTORS.items():
        rows = [metric_row(metric) for metric in collector().collect()]
        page += f"\n## `{path}`\n\n" + _table(("metric", "type", "labels", "meaning"), rows)
    return page


def metric_row(metric: Metric) -> tuple[str, str, str, str]:
    """Name, type, labels and help. Raises ValueError without a sample, because only samples have
    the labels."""
    if not metric.samples:
        raise ValueError(f"{metric.name} has no sample, so its labels are unknown")
    labels = ", ".join(f"`{label}`" for label in metric.samples[0].labels)
    return f"`{metric_name(metric)}`", metric.type, labels, metric.documentation


def metric_name(metric: Metric) -> str:
    """The name in Prometheus."""
    return f"{metric.name}_total" if metric.type == "counter" else metric.name


class _LossySink(FakeSink):
    """Has dropped an event, so that there is a sample with the label of the reason."""

    def counts(self) -> Counts:
        return Counts(accepted=1, dropped={"spool_full": 1})


def _emitter() -> CollectorRegistry:
    logger = logging.getLogger(__name__)
    publisher = AccessPublisher(Identity(random_demo_name, logger), Redaction(), logger)
    publisher.identity.anonymous["empty"] += 1
    return registry_of({"analyze.action": _LossySink()}, publisher)


def _pipeline() -> IndexerCollector:
    now = datetime.now(UTC)
    partition = Partition(number=0, low=0, high=0, position=0)
    flow = FlowState(flow="access_log", topic="t", partitions=(partition,), heartbeat_at=now)
    return IndexerCollector(Freshness(now=now, newest=now, flows=(flow,)))


COLLECTORS: Mapping[str, Callable[[], Collector]] = {
    "/metrics": _emitter,
    "/metrics/indexer": _pipeline,
}
"""Collectors by path, with at least one sample of each metric."""


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    cells = [[cell.replace("|", "\\|") for cell in line] for line in lines]
    return "".join(f"| {' | '.join(line)} |\n" for line in cells)


def _code(text: str) -> str:
    return f"`{text}`" if text else ""


PAGES: Mapping[str, Callable[[], str]] = {
    ".env.example": env_example,
    "docs/reference/settings.md": settings_page,
    "docs/reference/cli.md": commands_page,
    "docs/reference/metrics.md": metrics_page,
}
"""The generated files, by path."""


def main() -> None:
    for path, render in PAGES.items():
        (ROOT / path).write_text(render(), encoding="utf-8")


if __name__ == "__main__":
    main()
