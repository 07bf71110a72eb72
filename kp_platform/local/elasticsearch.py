"""Elasticsearch of the local stack, and the Java that runs it.

Belongs here: all that is particular to the local Elasticsearch. Does not belong here: calls to
Elasticsearch (`adapters/elasticsearch.py`).
"""

import os
import re
import shutil
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from kp_platform.local import state
from kp_platform.local.artifacts import distribution_folder
from kp_platform.local.service import SERVERS, Finding, Port, Service, needs_program, url_port
from kp_platform.local.settings import LocalSettings

NAME = "elasticsearch"
JAVA_FOLDER = Path("/usr/lib/jvm")


def service(settings: LocalSettings) -> Service:
    """Raises StackError for settings that no local Elasticsearch supports."""
    url = settings.elasticsearch_url
    declare = partial(
        Service, name=NAME, stage=SERVERS, address=url, ready=partial(_ready, settings)
    )
    if NAME in settings.external_services:
        return declare()
    transport = Port(
        setting="KP_ELASTICSEARCH_TRANSPORT_PORT", number=settings.elasticsearch_transport_port
    )
    program = distribution_folder(NAME, settings.cache) / "bin" / "elasticsearch"
    return declare(
        ports=(url_port("KP_ELASTICSEARCH_URL", url, NAME), transport),
        command=(*_not_as_root(), str(program)),
        environment=_environment(settings),
        prepare=partial(_prepare, settings),
        prerequisites=partial(_prerequisites, settings),
    )


def _folder(settings: LocalSettings) -> Path:
    return settings.home / "elasticsearch"


def _environment(settings: LocalSettings) -> dict[str, str]:
    folder = _folder(settings)
    return {
        "ES_JAVA_HOME": str(java_home(settings) or ""),
        "ES_PATH_CONF": str(folder / "config"),
        "ES_TMPDIR": str(folder / "tmp"),
        "ES_JAVA_OPTS": "",
        # Its launcher leaves folders in the temporary folder, and splits this at blanks.
        "CLI_JAVA_OPTS": "" if " " in str(folder) else f"-Djava.io.tmpdir={folder / 'tmp'}",
    }


def _not_as_root() -> tuple[str, ...]:
    """Elasticsearch refuses uid 0. As nobody it cannot pass folders of mode 0700 (/root, a mkdtemp
    clone), so it keeps the one capability that passes them; without the securebit access(2) ignores
    capabilities and Java sees unreadable files.
    """
    if os.geteuid() != 0:
        return ()
    return (
        "setpriv", "--reuid=65534", "--regid=65534", "--clear-groups",
        "--securebits=+no_setuid_fixup", "--bounding-set=-all,+dac_override",
        "--inh-caps=-all,+dac_override", "--ambient-caps=-all,+dac_override", "--",
    )  # fmt: skip


def _ready(settings: LocalSettings) -> None:
    from kp_platform.adapters.elasticsearch import ElasticsearchAdapter

    ElasticsearchAdapter(settings).probe()


def _prepare(settings: LocalSettings) -> None:
    folder = _folder(settings)
    for name in ("config", "data", "logs", "tmp"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    config = folder / "config"
    state.render(
        "elasticsearch.yml",
        config / "elasticsearch.yml",
        port=int(settings.elasticsearch_url.rpartition(":")[2]),
        transport_port=settings.elasticsearch_transport_port,
        data=folder / "data",
        logs=folder / "logs",
    )
    for name in ("jvm.options", "log4j2.properties"):
        state.render(name, config / name)


def _prerequisites(settings: LocalSettings) -> Iterator[Finding]:
    searched = settings.elasticsearch_java_home or JAVA_FOLDER
    yield Finding.present(
        "java for elasticsearch",
        java_home(settings),
        f"no Java 17 or newer with all modules at {searched}",
        "apt-get install -y default-jre-headless, or set KP_ELASTICSEARCH_JAVA_HOME",
    )
    if os.geteuid() == 0:
        yield needs_program("setpriv", shutil.which("setpriv"), "util-linux")


def java_home(settings: LocalSettings) -> Path | None:
    """The Java of Elasticsearch: KP_ELASTICSEARCH_JAVA_HOME, else the oldest suitable one."""
    if settings.elasticsearch_java_home:
        home = Path(settings.elasticsearch_java_home).expanduser()
        return home if _is_suitable(home) else None
    suitable = [home for home in JAVA_FOLDER.glob("*") if _is_suitable(home)]
    return min(suitable, key=lambda home: (_java_version(home), home.name), default=None)


def _is_suitable(home: Path) -> bool:
    runs = os.access(home / "bin" / "java", os.X_OK)
    return runs and _java_version(home) >= 17 and "jdk.jdi" in _release(home)


def _java_version(home: Path) -> int:
    found = re.search(r'^JAVA_VERSION="(\d+)', _release(home), re.MULTILINE)
    return int(found[1]) if found else 0


def _release(home: Path) -> str:
    try:
        return (home / "release").read_text(encoding="utf-8")
    except OSError:
        return ""
