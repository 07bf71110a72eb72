"""The Go example of the documentation, built and run on the same topic."""

import json
import os
import re
import subprocess
import uuid
from datetime import datetime
from pathlib import Path
from threading import Timer
from typing import Any

import pytest

from kp_platform.adapters.elasticsearch import ElasticsearchAdapter
from kp_platform.adapters.kafka import KafkaAdapter
from kp_platform.adapters.mysql import MySQLAdapter
from kp_platform.engine.indexer import Indexer, Limits
from kp_platform.engine.lag import partition_lags
from kp_platform.flows.builtin import ACCESS_LOG
from kp_platform.operations.reference_data import REFERENCE_VALUES
from kp_platform.settings import Settings
from kp_platform.wiring import servers
from kp_platform_tests.integration.events import Event, documents, publish
from kp_platform_tests.stack import ROOT, Stack

FOLDER = ROOT / "docs" / "other-languages" / "go"
LIMITS = Limits(slice_rows=50_000, bulk_rows=5_000, follow_idle_seconds=0, max_run_seconds=300)
# The fields in which documents of the same name differ.
OWN = {"uuid", "uri", "@timestamp", "partition", "offset", "indexed_at", "delay_ms"}


@pytest.fixture(scope="module")
def programs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Producer and consumer, built with the commands of their README in a temporary folder."""
    commands = re.search(r"^export GO111MODULE.*\ngo build .*$", readme(), re.M)
    assert commands
    assert "/tmp/kp-go/" in commands[0]
    folder = tmp_path_factory.mktemp("go")
    own = {"HOME": str(folder), "GOCACHE": str(folder / "cache"), "GOENV": "off", "GOFLAGS": ""}
    subprocess.run(
        ["sh", "-euc", commands[0].replace("/tmp/kp-go/", f"{folder}/")],
        cwd=FOLDER,
        env={**os.environ, **own},
        check=True,
        timeout=600,
    )
    return folder


@pytest.fixture
def indexer(quiet_stack: Stack) -> Indexer:
    """An indexer that has indexed the events of other tests."""
    indexer = Indexer(
        ACCESS_LOG,
        servers(Settings()),
        LIMITS,
    )
    list(indexer.run())
    return indexer


def readme() -> str:
    return (FOLDER / "README.md").read_text()


def produce(programs: Path, *arguments: str) -> list[dict[str, str]]:
    """The events that the producer reports as acknowledged."""
    done = subprocess.run(
        [programs / "producer", *arguments], stdout=subprocess.PIPE, timeout=60, check=True
    )
    return [json.loads(line) for line in done.stdout.splitlines()]


def consume(programs: Path, group: str, identities: set[str]) -> list[dict[str, Any]]:
    """The consumer's lines with these uuids. It ends when all have arrived."""
    command: list[str | Path] = [programs / "consumer", "-group", group]
    found: list[dict[str, Any]] = []
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as consumer:
        assert consumer.stdout is not None
        deadline = Timer(90, consumer.kill)
        deadline.start()
        for line in consumer.stdout:
            if any(identity in line for identity in identities):
                found.append(json.loads(line))
            if len(found) == len(identities):
                break
        consumer.terminate()
        consumer.communicate()  # an unread, full pipe would keep it from ending
        assert consumer.returncode == 0, f"{len(found)} of {len(identities)} events arrived"
        deadline.cancel()
    return found


def positions(indexer: Indexer) -> dict[int, int | None]:
    lags = partition_lags(ACCESS_LOG, indexer.servers.log, ElasticsearchAdapter(Settings()))
    return {each.partition: each.position for each in lags}


def test_events_from_go_are_enriched_like_others(indexer: Indexer, programs: Path) -> None:
    ours = Event(name="kafka")
    sent = produce(programs, "-count", "20", "-name", "kafka")
    publish(ours.value)
    list(indexer.run())
    [reference] = documents(ours.uuid)
    found = documents(*(event["uuid"] for event in sent))
    assert len(sent) == len(found) == 20
    contents = {each["uuid"]: (each["uri"], each["name"]) for each in found}
    assert contents == {event["uuid"]: (event["uri"], "kafka") for event in sent}
    assert sorted(contents.values()) == sorted(
        (f"/from/go/{number}?q=caf%C3%A9", "kafka") for number in range(20)
    )
    for document in found:
        assert document["test_id"] == MySQLAdapter(Settings()).ids()["kafka"]
        assert document["redis_value"] == REFERENCE_VALUES["kafka"]
        assert document["enrichment"] == {"state": "complete", "missing": []}
        assert document.keys() == reference.keys()
        common = document.keys() - OWN
        assert {name: document[name] for name in common} == {n: reference[n] for n in common}


def test_a_name_in_any_script_from_go_is_indexed_unchanged(
    indexer: Indexer, programs: Path
) -> None:
    name = '<b>Grüße</b> "q" \\ 漢字 🙂 & \''
    [sent] = produce(programs, "-name", name)
    list(indexer.run())
    [document] = documents(sent["uuid"])
    assert document["name"] == sent["name"] == name
    assert document["enrichment"] == {"state": "none", "missing": ["mysql", "redis"]}


def test_a_go_consumer_does_not_affect_the_platform(indexer: Indexer, programs: Path) -> None:
    ours = Event(name="kafka")
    publish(ours.value)
    sent = {event["uuid"]: event for event in produce(programs, "-count", "3")}
    before = positions(indexer)
    mirrored = KafkaAdapter(Settings()).committed(ACCESS_LOG.consumer_group, ACCESS_LOG.topic)
    group = f"go-{uuid.uuid4()}"

    read = {line["event"]["uuid"]: line for line in consume(programs, group, {ours.uuid, *sent})}

    assert {key: line["event"] for key, line in read.items()} == {
        ours.uuid: json.loads(ours.value),
        **sent,
    }
    assert read[ours.uuid]["headers"] == {}
    committed = KafkaAdapter(Settings()).committed(group, ACCESS_LOG.topic)
    assert all(committed[line["partition"]] > line["offset"] for line in read.values())
    assert positions(indexer) == before
    after = KafkaAdapter(Settings()).committed(ACCESS_LOG.consumer_group, ACCESS_LOG.topic)
    assert after == mirrored

    list(indexer.run())
    for document in documents(*sent):
        line = read[document["uuid"]]
        assert (document["partition"], document["offset"]) == (line["partition"], line["offset"])
        happened = datetime.fromisoformat(document["@timestamp"])
        assert happened == datetime.fromisoformat(line["timestamp"])
        assert happened == datetime.fromisoformat(line["headers"].pop("ce_time"))
        assert line["headers"] == {
            "ce_specversion": "1.0",
            "ce_id": document["uuid"],
            "ce_source": "/other-languages/go",
            "ce_type": "kp.access.v1",
        }
    assert len(documents(ours.uuid, *sent)) == 4


def test_the_readme_names_the_packages_that_make_test_installs() -> None:
    [named] = re.findall(r"^apt-get install (.*)$", readme(), re.M)
    script = (ROOT / "kp_platform" / "local" / "packages.sh").read_text()
    assert set(named.split()) <= set(re.findall(r"need ([\w.+-]+)$", script, re.M))
