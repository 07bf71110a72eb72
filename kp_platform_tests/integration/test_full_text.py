"""The full-text flow on the real servers: notes are indexed unchanged and searchable by word."""

import uuid

import pytest

from kp_platform.adapters.elasticsearch import ElasticsearchAdapter
from kp_platform.engine.indexer import Indexer, Limits
from kp_platform.flows.builtin import FULL_TEXT
from kp_platform.settings import Settings
from kp_platform.wiring import servers
from kp_platform_tests.integration.events import dead_letters, json_value, publish
from kp_platform_tests.stack import Stack

LIMITS = Limits(slice_rows=50_000, bulk_rows=5_000, follow_idle_seconds=0, max_run_seconds=300)


@pytest.fixture
def indexer(quiet_stack: Stack) -> Indexer:
    return Indexer(
        FULL_TEXT,
        servers(Settings()),
        LIMITS,
    )


def register(indexer: Indexer, *texts: str) -> list[str]:
    """Publish notes and index them; returns their uuids."""
    ids = [str(uuid.uuid4()) for _ in texts]
    notes = [json_value(uuid=key, text=text) for key, text in zip(ids, texts, strict=True)]
    publish(*notes, topic=FULL_TEXT.topic)
    list(indexer.run())
    return ids


TEXTS = {
    "markup": "<script>alert(1)</script><img src=x onerror=alert(2)> {{7*7}} &amp; ]]>",
    "20 kB": "lorem ipsum " * 1_700,
    "a megabyte less its frame": "x" * 900_000,
    "emoji": "👩‍👩‍👧‍👦🇺🇦e\u0301\u00e9",
    "right to left": "\u202eevil\u202c שלום \u2066x\u2069",
    "lone control characters": "a\x00b\x01c\x08d\x1be\x7ff\x85g\u2028h",
    "line ends": "one\r\ntwo\rthree\nfour\t",
    "quotes and SQL": "'; DROP TABLE tests; -- \" \\ \\n %s ? $1",
    "blanks only": " \t\r\n ",
    "empty": "",
}


def test_every_text_is_indexed_as_it_was_written(indexer: Indexer) -> None:
    ids = register(indexer, *TEXTS.values())
    index = ElasticsearchAdapter(Settings())
    found = {key: index.find(FULL_TEXT.index, "uuid", key)[0].source for key in ids}
    for key, (what, text) in zip(ids, TEXTS.items(), strict=True):
        assert found[key]["text"] == text, what
    lengths = [found[key]["length"] for key in ids]
    assert lengths[list(TEXTS).index("20 kB")] == len(TEXTS["20 kB"].strip())
    assert lengths[-2:] == [0, 0]  # blank notes, which the page leaves out


def test_a_note_is_searchable_by_word_and_has_no_enrichment(indexer: Indexer) -> None:
    word = f"w{uuid.uuid4().hex}"
    [mine, _] = register(indexer, f"the {word.upper()} stands here", "and not there")
    search = ElasticsearchAdapter(Settings()).client().search
    answer = search(index=FULL_TEXT.index, query={"match": {"text": word}})
    [hit] = answer["hits"]["hits"]
    assert hit["_source"]["uuid"] == mine
    assert hit["_source"]["topic"] == FULL_TEXT.topic
    assert "enrichment" not in hit["_source"]


def test_a_note_without_a_text_is_a_dead_letter(indexer: Indexer) -> None:
    [location] = publish(json_value(uuid=str(uuid.uuid4())), topic=FULL_TEXT.topic)
    list(indexer.run())
    [dead_letter] = dead_letters(*location, FULL_TEXT.topic)
    assert dead_letter["reason"] == "missing_field"
