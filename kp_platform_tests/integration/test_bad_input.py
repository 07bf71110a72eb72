"""All bad input at once on the real servers: each case has its own outcome."""

import base64
import json
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import pytest
from confluent_kafka import KafkaError, Producer
from confluent_kafka.admin import (
    AdminClient,
    AlterConfigOpType,
    ConfigEntry,
    ConfigResource,
    ResourceType,
)

from kp_platform.adapters.elasticsearch import ElasticsearchAdapter
from kp_platform.adapters.kafka import KafkaAdapter
from kp_platform.engine.lag import partition_lags
from kp_platform.flows.builtin import ACCESS_LOG
from kp_platform.settings import Settings
from kp_platform_tests.bad_input.cases import (
    Case,
    Duplicate,
    Expected,
    Indexed,
    Rejected,
    malformed,
    nasty_strings,
    odd,
)
from kp_platform_tests.integration.events import Event, publish, run_indexer
from kp_platform_tests.stack import Stack

Location = tuple[int, int]
MAPPING = json.loads(ACCESS_LOG.mapping.read_text())


@pytest.fixture
def any_timestamp(quiet_stack: Stack) -> Iterator[None]:
    """The topic accepts timestamps of the future, which a broker refuses by default."""
    admin = AdminClient({"bootstrap.servers": KafkaAdapter(Settings()).address})

    def alter(operation: AlterConfigOpType) -> None:
        entry = ConfigEntry(
            "message.timestamp.after.max.ms", str(2**63 - 1), incremental_operation=operation
        )
        resource = ConfigResource(ResourceType.TOPIC, ACCESS_LOG.topic, incremental_configs=[entry])
        for future in admin.incremental_alter_configs([resource]).values():
            future.result(timeout=10)

    alter(AlterConfigOpType.SET)
    yield
    alter(AlterConfigOpType.DELETE)


def producer(compression: str = "none") -> Producer:
    return Producer(
        {
            "bootstrap.servers": KafkaAdapter(Settings()).address,
            "acks": "all",
            "compression.type": compression,
            "message.max.bytes": 2_000_000,
        }
    )


def publish_cases(cases: Sequence[Case], partition: int) -> dict[Location, Case]:
    """Write all messages, with one producer per codec; returns the case at each location."""
    cases_by_location: dict[Location, Case] = {}

    def delivered(case: Case, error: KafkaError | None, message: Any) -> None:
        assert error is None, f"{case.name}: {error}"
        cases_by_location[message.partition(), message.offset()] = case

    producers = {each: producer(each) for each in {case.compression for case in cases}}
    for case in cases:
        producers[case.compression].produce(
            ACCESS_LOG.topic,
            case.value,
            case.key,
            partition=partition,
            timestamp=case.timestamp,
            headers=list(case.headers),
            on_delivery=partial(delivered, case),
        )
    assert [each.flush(60) for each in producers.values()] == [0] * len(producers)
    assert len(cases_by_location) == len(cases)
    return cases_by_location


def among_neighbours(cases: Sequence[Case]) -> Iterator[Case]:
    """Each case preceded by a valid event, and a valid event after the last."""
    for number, case in enumerate([*cases, None]):
        uri = f"/neighbour/{number}"
        yield Case(f"neighbour {number}", Event(uri=uri).value, Indexed(uri=uri))
        if case is not None:
            yield case


def stored_at(
    index: str, cases_by_location: Mapping[Location, Case]
) -> dict[Location, dict[str, Any]]:
    """The documents of an index with these offsets. Fails if an offset has two."""
    client = ElasticsearchAdapter(Settings()).client()
    client.indices.refresh(index=index)
    found: dict[Location, dict[str, Any]] = {}
    for partition in {partition for partition, _ in cases_by_location}:
        offsets = sorted(offset for number, offset in cases_by_location if number == partition)
        offset_range = {"offset": {"gte": offsets[0], "lte": offsets[-1]}}
        terms = {"topic": ACCESS_LOG.topic, "partition": partition}
        filters = [
            {"range": offset_range},
            *({"term": {name: value}} for name, value in terms.items()),
        ]
        after: dict[str, Any] = {}
        while True:
            # A dead letter may have megabytes, so pages are small.
            hits = client.search(
                index=index, query={"bool": {"filter": filters}}, size=50, sort=["offset"], **after
            )["hits"]["hits"]
            if not hits:
                break
            for hit in hits:
                location = hit["_source"]["partition"], hit["_source"]["offset"]
                assert location not in found, f"twice in {index}: {location}"
                found[location] = hit["_source"]
            after = {"search_after": hits[-1]["sort"]}
    return found


def answers(cases_by_location: Mapping[Location, Case]) -> dict[str, Expected]:
    """The outcome of each message, by the name of its case."""
    indexed = stored_at(f"{ACCESS_LOG.index}-*", cases_by_location)
    dead = stored_at("kp.dead", cases_by_location)
    assert indexed.keys() & dead.keys() == set()
    found: dict[str, Expected] = {}
    for location, case in cases_by_location.items():
        if location in indexed:
            found[case.name] = of_document(indexed[location])
        elif location in dead:
            dead_letter = dead[location]
            value, key = (
                None if dead_letter[name] is None else base64.b64decode(dead_letter[name])
                for name in ("value", "key")
            )
            same = (value, key) == (case.value, case.key)
            found[case.name] = Rejected(
                dead_letter["reason"] if same else "other bytes than were sent"
            )
        else:
            found[case.name] = Duplicate()
    return found


def of_document(document: dict[str, Any]) -> Indexed:
    """Its fields. Fails unless its reference data are those of its name, or absent."""
    name, missing = document["name"], tuple(document["enrichment"]["missing"])
    reference = {"mysql": document["test_name"], "redis": document["redis_key"]}
    assert reference == {source: None if source in missing else name for source in reference}
    assert document["enrichment"]["state"] == ("none" if missing else "complete")
    return Indexed(document["uri"], name, missing)


def fields_of_days() -> set[str]:
    """The fields of all daily indices, nested ones included."""
    mappings = (
        ElasticsearchAdapter(Settings()).client().indices.get_mapping(index=f"{ACCESS_LOG.index}-*")
    )
    return {field for each in mappings.values() for field in _fields(each["mappings"])}


def _fields(mapping: Mapping[str, Any], path: str = "") -> Iterator[str]:
    for name, field in mapping.get("properties", {}).items():
        yield path + name
        yield from _fields(field, f"{path}{name}.")


def test_each_case_has_its_own_outcome_and_its_neighbours_are_indexed(
    any_timestamp: None,
) -> None:
    run_indexer()
    cases_by_location: dict[Location, Case] = {}
    for partition, cases in enumerate((malformed(), odd(), nasty_strings())):
        cases_by_location |= publish_cases(list(among_neighbours(cases)), partition)
    run_indexer()
    found = answers(cases_by_location)
    expected = {case.name: case.expected for case in cases_by_location.values()}
    wrong = {
        name: (found[name], answer) for name, answer in expected.items() if found[name] != answer
    }
    assert wrong == {}, "\n".join(
        f"{name}: {str(is_)[:300]}, not {str(should)[:300]}"
        for name, (is_, should) in wrong.items()
    )
    assert fields_of_days() == set(_fields(MAPPING["template"]["mappings"]))
    lags = partition_lags(ACCESS_LOG, KafkaAdapter(Settings()), ElasticsearchAdapter(Settings()))
    assert [each.lag for each in lags] == [0] * len(lags)  # an empty partition has no position


def test_a_message_above_the_size_limit_is_refused_by_kafka(quiet_stack: Stack) -> None:
    """A value above a megabyte is on a topic only if it was compressed."""
    errors: list[int] = []
    sending = producer()
    sending.produce(
        ACCESS_LOG.topic,
        b"x" * 1_048_577,
        on_delivery=lambda error, _: errors.append(error.code() if error else 0),
    )
    sending.flush(60)
    assert errors == [KafkaError.MSG_SIZE_TOO_LARGE]


@pytest.mark.many_events
def test_a_burst_in_one_partition_is_indexed_completely(
    quiet_stack: Stack,
) -> None:
    run_indexer()
    lags = partition_lags(ACCESS_LOG, KafkaAdapter(Settings()), ElasticsearchAdapter(Settings()))
    before = {each.partition: each.high for each in lags}
    burst = [Event(uri="/burst").value for _ in range(20_000)]
    publish(*burst, partition=2)
    run_indexer()
    lags = partition_lags(ACCESS_LOG, KafkaAdapter(Settings()), ElasticsearchAdapter(Settings()))
    assert {each.partition: each.high - before[each.partition] for each in lags} == {
        0: 0,
        1: 0,
        2: 20_000,
        3: 0,
    }
    assert [each.lag for each in lags] == [0] * len(lags)  # an empty partition has no position
    client = ElasticsearchAdapter(Settings()).client()
    client.indices.refresh(index=f"{ACCESS_LOG.index}-*")
    since = {"range": {"offset": {"gte": before[2]}}}
    query = {"bool": {"filter": [since, {"term": {"partition": 2}}, {"term": {"uri": "/burst"}}]}}
    assert client.count(index=f"{ACCESS_LOG.index}-*", query=query)["count"] == 20_000
