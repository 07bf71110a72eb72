"""Queries for notes and their hits; one contract for the fake and Elasticsearch."""

import json
import re
from collections.abc import Callable, Iterator
from uuid import uuid4

import anyio
import pytest
from elasticsearch import Elasticsearch

from kp_platform_tests.stack import ROOT, Stack
from kp_platform_tests.unit.web_emitter.fakes import FakeNotes
from web_emitter.site.notes import (
    BEGINNING,
    ElasticsearchNotes,
    FoundNotes,
    Marker,
    Note,
    NoteQuery,
    Part,
)
from web_emitter.site.search import MAX_WORDS_LENGTH, connection

MAPPING = ROOT / "kp_platform" / "flows" / "full_text" / "mapping.json"

Find = Callable[[str], FoundNotes]


def note(text: str, second: int = 0) -> Note:
    moment = f"2026-03-01T10:20:{second:02d}.000Z"
    return Note(registered_at=moment, uuid=str(uuid4()), text=text)


class RealNotes:
    """An index with the platform's mapping, and the search on it."""

    def __init__(self, url: str, index: str) -> None:
        self._url = url
        self._index = index
        self._client = Elasticsearch(url, request_timeout=60)
        template = json.loads(MAPPING.read_bytes())["template"]
        self._client.indices.create(index=index, mappings=template["mappings"])

    def hold(self, notes: tuple[Note, ...]) -> None:
        for each in notes:
            document = {
                "@timestamp": each.registered_at,
                "uuid": each.uuid,
                "text": each.text,
                "length": len(each.text.strip()),
            }
            self._client.index(index=self._index, document=document)
        self._client.indices.refresh(index=self._index)

    def find(self, words: str) -> FoundNotes:
        async def ask() -> FoundNotes:
            # A busy machine may take longer than a page would wait.
            async with connection(self._url, 60) as client:
                return await ElasticsearchNotes(client, self._index).find(NoteQuery(words))

        return anyio.run(ask)

    def delete(self) -> None:
        self._client.indices.delete(index=self._index)
        self._client.close()


@pytest.fixture
def real(stack: Stack) -> Iterator[RealNotes]:
    notes = RealNotes(stack.settings.elasticsearch_url, f"test-notes-{uuid4()}")
    yield notes
    notes.delete()


@pytest.fixture(params=["fake", "real"])
def holding(request: pytest.FixtureRequest) -> Callable[..., Find]:
    """A search over the given notes."""

    def hold(*notes: Note) -> Find:
        if request.param == "fake":
            fake = FakeNotes(notes)
            return lambda words: anyio.run(fake.find, NoteQuery(words))
        real: RealNotes = request.getfixturevalue("real")
        real.hold(notes)
        return real.find

    return hold


class TestSearch:
    """`NoteSearch`."""

    def test_without_words_all_notes_are_sorted_newest_first(
        self, holding: Callable[..., Find]
    ) -> None:
        first, second, third = (note(text, n) for n, text in enumerate(("one", "two", "three")))
        find = holding(second, third, first)
        assert find("") == find("  ") == FoundNotes((third, second, first), 3, True, True)

    def test_a_word_matches_its_notes_and_is_highlighted(
        self, holding: Callable[..., Find]
    ) -> None:
        find = holding(note("Trino joins.\r\nKafka <b>flows</b>"), note("nothing of it"))
        found = find("kafka")
        assert [each.text for each in found.notes] == ["Trino joins.\r\nKafka <b>flows</b>"]
        parts = [part for fragment in found.notes[0].fragments for part in fragment]
        assert [part.text for part in parts if part.is_hit] == ["Kafka"]
        assert found.notes[0].text.endswith("".join(part.text for part in parts))

    def test_every_word_must_match(self, holding: Callable[..., Find]) -> None:
        both = note("kafka and trino")
        find = holding(both, note("kafka alone"), note("trino alone"))
        assert [each.uuid for each in find("trino kafka").notes] == [both.uuid]

    def test_blank_notes_are_left_out(self, holding: Callable[..., Find]) -> None:
        find = holding(note(" \r\n\t"), note(""))
        assert find("") == FoundNotes()

    def test_no_match_reports_that_there_are_notes(self, holding: Callable[..., Find]) -> None:
        find = holding(note("kafka"))
        assert find("redis") == find("???") == FoundNotes(anything_registered=True)

    def test_no_note_reports_that_there_are_none(self, holding: Callable[..., Find]) -> None:
        assert holding()("redis") == FoundNotes()

    def test_fifty_are_shown_and_all_are_counted(self, holding: Callable[..., Find]) -> None:
        find = holding(*(note("kafka", second) for second in range(55)))
        for words in ("", "kafka"):
            found = find(words)
            assert (len(found.notes), found.total) == (50, 55)
            assert found.notes[0].registered_at == "2026-03-01T10:20:54.000Z"


@pytest.mark.parametrize(
    "words",
    [
        '"', "-", "*", "\\", "(", "a -", "~", "a~9999999999", '"a b"~9999999999',  # half a syntax
        "(" * 300, "a|" * 150, "a* " * 100, "-" * 300,  # much of it
        "a|b " * 20_000,  # cut: it would end the server
        "\x00", "\ufffd", "\u202e", "🎉", "{{7*7}}", "[]{}:^/?&!=<>", "text:a", "_exists_:uuid",
    ],
)  # fmt: skip
def test_any_input_is_answered(real: RealNotes, words: str) -> None:
    real.hold((note("a b"),))
    assert real.find(words).anything_registered


def test_a_megabyte_text_matches_and_its_fragments_are_short(real: RealNotes) -> None:
    late = note("word " * 210_000 + "needle", 1)
    endless = note("n" * 1_000_000, 2)
    real.hold((late, endless))
    (found,) = real.find("needle").notes
    assert found.fragments == ()
    assert found.excerpt == ((Part(late.text[:BEGINNING]),),)
    (found,) = real.find("nnn*").notes
    assert sum(len(part.text) for each in found.fragments for part in each) < 20_000


@pytest.mark.parametrize(
    "text",
    [
        "<script>alert(1)</script><mark>x</mark> needle",
        "needle " + "🎉" * 5_000,
        "needle \u202e reversed",
        "needle \x00 \x1b \x7f \r alone",
        "[0123456789abcdef0123456789abcdef needle 0123456789abcdef0123456789abcdef]",
        "needle {{7*7}}",
        "n" * 19_993 + " needle",  # 20 kB
    ],
)
def test_hostile_texts_are_returned_as_stored(real: RealNotes, text: str) -> None:
    real.hold((note(text),))
    (found,) = real.find("needle").notes
    assert found.text == text
    parts = [part for fragment in found.fragments for part in fragment]
    assert [part.text for part in parts if part.is_hit] == ["needle"]


def test_operators_narrow_a_search(real: RealNotes) -> None:
    real.hold((note("trino joins kafka", 2), note("kafka joins", 1), note("kafkaesque", 0)))

    def found(words: str) -> list[str]:
        return [each.text for each in real.find(words).notes]

    assert found('"joins kafka"') == ["trino joins kafka"]
    assert found("kafka -trino") == ["kafka joins"]
    assert found("kafkaes*") == ["kafkaesque"]
    assert sorted(found("trino | kafkaesque")) == ["kafkaesque", "trino joins kafka"]


def test_the_best_match_is_first_and_of_equal_ones_the_newest(real: RealNotes) -> None:
    often, newer = note("kafka kafka kafka", 0), note("kafka x y", 2)
    real.hold((often, newer, note("kafka a b", 1)))
    assert [each.text for each in real.find("kafka").notes] == [
        "kafka kafka kafka",
        "kafka x y",
        "kafka a b",
    ]


def test_markers_are_new_for_each_query_and_split_a_fragment() -> None:
    marker = Marker()
    assert marker.start != Marker().start
    assert re.fullmatch(r"\[[0-9a-f]{32}", marker.start)
    fragment = f"{marker.start}Kafka{marker.end} & {marker.start}joins{marker.end}"
    assert marker.parts(fragment) == (
        Part("Kafka", is_hit=True),
        Part(" & "),
        Part("joins", is_hit=True),
    )


@pytest.mark.parametrize(
    ("fragment", "parts"),
    [
        ("", ()),
        ("no hit", (Part("no hit"),)),
        (f"{Marker().start}x{Marker().end}", None),  # a marker of another query is text
        ("[] ]x[", (Part("[] ]x["),)),
    ],
)
def test_text_that_resembles_a_marker_is_text(
    fragment: str, parts: tuple[Part, ...] | None
) -> None:
    assert Marker().parts(fragment) == ((Part(fragment),) if parts is None else parts)


def test_a_document_without_fields_is_a_note() -> None:
    assert Note.from_hit({"_source": {}}, Marker()) == Note(registered_at="", uuid="", text="")


@pytest.mark.parametrize(
    ("text", "fragments", "is_whole"),
    [
        ("short", (), True),
        ("x" * BEGINNING, (), True),
        ("x" * (BEGINNING + 1), (), False),
        ("a b", ((Part("a", is_hit=True), Part(" b")),), True),
        ("a b\r\n", ((Part("a", is_hit=True), Part(" b")),), True),  # the search trims
        ("a b. c", ((Part("a", is_hit=True), Part(" b.")),), False),
        ("a b", ((Part("a"),), (Part("b"),)), False),
    ],
)
def test_an_excerpt_reports_whether_it_is_the_complete_note(
    text: str, fragments: tuple[tuple[Part, ...], ...], is_whole: bool
) -> None:
    found = Note(registered_at="", uuid="", text=text, fragments=fragments)
    assert found.excerpt_is_whole == is_whole


def test_a_search_is_truncated_to_the_length_of_the_form_field() -> None:
    (must,) = NoteQuery("k" * 5_000).as_elasticsearch()["bool"]["must"]
    assert must["simple_query_string"]["query"] == "k" * MAX_WORDS_LENGTH


@pytest.mark.parametrize("words", ["", " ", "\t\r\n", "\u3000"])
def test_blanks_are_no_search(words: str) -> None:
    query = NoteQuery(words)
    assert not query.is_search
    assert query.as_elasticsearch() == {"bool": {"filter": [{"range": {"length": {"gt": 0}}}]}}
