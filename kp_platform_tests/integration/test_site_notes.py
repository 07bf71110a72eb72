"""Searching notes in Elasticsearch; the same contract tests run on fake and real search."""

import json
import re
from collections.abc import Callable, Iterator
from uuid import uuid4

import anyio
import pytest
from elasticsearch import Elasticsearch

from kp_platform_tests.stack import ROOT, Stack
from kp_platform_tests.unit.web_emitter.fakes import FakeNotes
from web_emitter.site.notes.search import (
    EXCERPT_LENGTH,
    ElasticsearchNotes,
    Highlighter,
    Note,
    NotePage,
    NoteQuery,
    Piece,
)
from web_emitter.site.search import MAX_WORDS_LENGTH, connection

MAPPING = ROOT / "kp_platform" / "flows" / "full_text" / "mapping.json"

Search = Callable[[str], NotePage]


def note(text: str, second: int = 0) -> Note:
    moment = f"2026-03-01T10:20:{second:02d}.000Z"
    return Note(registered_at=moment, uuid=str(uuid4()), text=text)


class RealNotes:
    """An index with the mapping of the platform, and the search in it."""

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

    def search(self, words: str) -> NotePage:
        async def run() -> NotePage:
            # A busy machine may take longer than a page would wait.
            async with connection(self._url, 60) as client:
                return await ElasticsearchNotes(client, self._index).search(NoteQuery(words))

        return anyio.run(run)

    def delete(self) -> None:
        self._client.indices.delete(index=self._index)
        self._client.close()


@pytest.fixture
def real(stack: Stack) -> Iterator[RealNotes]:
    notes = RealNotes(stack.settings.elasticsearch_url, f"test-notes-{uuid4()}")
    yield notes
    notes.delete()


@pytest.fixture(params=["fake", "real"])
def holding(request: pytest.FixtureRequest) -> Callable[..., Search]:
    """Returns a search over the given notes."""

    def hold(*notes: Note) -> Search:
        if request.param == "fake":
            fake = FakeNotes(notes)
            return lambda words: anyio.run(fake.search, NoteQuery(words))
        real: RealNotes = request.getfixturevalue("real")
        real.hold(notes)
        return real.search

    return hold


class TestSearch:
    """`NoteSearch`."""

    def test_a_search_without_words_returns_all_notes_newest_first(
        self, holding: Callable[..., Search]
    ) -> None:
        first, second, third = (note(text, n) for n, text in enumerate(("one", "two", "three")))
        find = holding(second, third, first)
        assert find("") == find("  ") == NotePage((third, second, first), 3, True, True)

    def test_a_word_matches_its_notes_and_is_highlighted(
        self, holding: Callable[..., Search]
    ) -> None:
        find = holding(note("Trino joins.\r\nKafka <b>flows</b>"), note("no match"))
        page = find("kafka")
        assert [each.text for each in page.notes] == ["Trino joins.\r\nKafka <b>flows</b>"]
        pieces = [piece for fragment in page.notes[0].fragments for piece in fragment]
        assert [piece.text for piece in pieces if piece.is_hit] == ["Kafka"]
        assert page.notes[0].text.endswith("".join(piece.text for piece in pieces))

    def test_a_note_must_contain_every_word(self, holding: Callable[..., Search]) -> None:
        both = note("kafka and trino")
        find = holding(both, note("kafka alone"), note("trino alone"))
        assert [each.uuid for each in find("trino kafka").notes] == [both.uuid]

    def test_blank_notes_are_omitted(self, holding: Callable[..., Search]) -> None:
        find = holding(note(" \r\n\t"), note(""))
        assert find("") == NotePage()

    def test_a_search_without_results_reports_that_there_are_notes(
        self, holding: Callable[..., Search]
    ) -> None:
        find = holding(note("kafka"))
        assert find("redis") == find("???") == NotePage(anything_registered=True)

    def test_a_search_without_notes_reports_that_there_are_none(
        self, holding: Callable[..., Search]
    ) -> None:
        assert holding()("redis") == NotePage()

    def test_fifty_notes_are_returned_and_all_are_counted(
        self, holding: Callable[..., Search]
    ) -> None:
        find = holding(*(note("kafka", second) for second in range(55)))
        for words in ("", "kafka"):
            page = find(words)
            assert (len(page.notes), page.total) == (50, 55)
            assert page.notes[0].registered_at == "2026-03-01T10:20:54.000Z"


@pytest.mark.parametrize(
    "words",
    [
        '"', "-", "*", "\\", "(", "a -", "~", "a~9999999999", '"a b"~9999999999',  # partial
        "(" * 300, "a|" * 150, "a* " * 100, "-" * 300,  # repeated
        "a|b " * 20_000,  # truncated: it would crash the server
        "\x00", "\ufffd", "\u202e", "🎉", "{{7*7}}", "[]{}:^/?&!=<>", "text:a", "_exists_:uuid",
    ],
)  # fmt: skip
def test_any_input_returns_a_result(real: RealNotes, words: str) -> None:
    real.hold((note("a b"),))
    assert real.search(words).anything_registered


def test_texts_of_a_megabyte_are_searchable_with_short_fragments(real: RealNotes) -> None:
    late = note("word " * 210_000 + "needle", 1)
    endless = note("n" * 1_000_000, 2)
    real.hold((late, endless))
    (result,) = real.search("needle").notes
    assert result.fragments == ()
    assert result.excerpt == ((Piece(late.text[:EXCERPT_LENGTH]),),)
    (result,) = real.search("nnn*").notes
    assert sum(len(piece.text) for each in result.fragments for piece in each) < 20_000


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
def test_hostile_texts_are_returned_unchanged(real: RealNotes, text: str) -> None:
    real.hold((note(text),))
    (result,) = real.search("needle").notes
    assert result.text == text
    pieces = [piece for fragment in result.fragments for piece in fragment]
    assert [piece.text for piece in pieces if piece.is_hit] == ["needle"]


def test_operators_restrict_a_search(real: RealNotes) -> None:
    real.hold((note("trino joins kafka", 2), note("kafka joins", 1), note("kafkaesque", 0)))

    def texts(words: str) -> list[str]:
        return [each.text for each in real.search(words).notes]

    assert texts('"joins kafka"') == ["trino joins kafka"]
    assert texts("kafka -trino") == ["kafka joins"]
    assert texts("kafkaes*") == ["kafkaesque"]
    assert sorted(texts("trino | kafkaesque")) == ["kafkaesque", "trino joins kafka"]


def test_notes_are_ordered_by_relevance_then_by_time(real: RealNotes) -> None:
    often, newer = note("kafka kafka kafka", 0), note("kafka x y", 2)
    real.hold((often, newer, note("kafka a b", 1)))
    assert [each.text for each in real.search("kafka").notes] == [
        "kafka kafka kafka",
        "kafka x y",
        "kafka a b",
    ]


def test_highlight_tags_are_random_and_split_a_fragment() -> None:
    highlighter = Highlighter()
    assert highlighter.start != Highlighter().start
    assert re.fullmatch(r"\[[0-9a-f]{32}", highlighter.start)
    fragment = (
        f"{highlighter.start}Kafka{highlighter.end} & {highlighter.start}joins{highlighter.end}"
    )
    assert highlighter.pieces(fragment) == (
        Piece("Kafka", is_hit=True),
        Piece(" & "),
        Piece("joins", is_hit=True),
    )


@pytest.mark.parametrize(
    ("fragment", "pieces"),
    [
        ("", ()),
        ("no hit", (Piece("no hit"),)),
        (f"{Highlighter().start}x{Highlighter().end}", None),  # tags of another search are text
        ("[] ]x[", (Piece("[] ]x["),)),
    ],
)
def test_text_that_resembles_a_tag_is_not_a_hit(
    fragment: str, pieces: tuple[Piece, ...] | None
) -> None:
    assert Highlighter().pieces(fragment) == ((Piece(fragment),) if pieces is None else pieces)


def test_a_document_without_fields_is_a_note() -> None:
    assert Note.from_hit({"_source": {}}, Highlighter()) == Note(registered_at="", uuid="", text="")


@pytest.mark.parametrize(
    ("text", "fragments", "is_complete"),
    [
        ("short", (), True),
        ("x" * EXCERPT_LENGTH, (), True),
        ("x" * (EXCERPT_LENGTH + 1), (), False),
        ("a b", ((Piece("a", is_hit=True), Piece(" b")),), True),
        ("a b\r\n", ((Piece("a", is_hit=True), Piece(" b")),), True),  # the search trims
        ("a b. c", ((Piece("a", is_hit=True), Piece(" b.")),), False),
        ("a b", ((Piece("a"),), (Piece("b"),)), False),
    ],
)
def test_an_excerpt_reports_whether_it_is_the_complete_note(
    text: str, fragments: tuple[tuple[Piece, ...], ...], is_complete: bool
) -> None:
    note_ = Note(registered_at="", uuid="", text=text, fragments=fragments)
    assert note_.excerpt_is_complete == is_complete


def test_a_search_is_truncated_to_the_length_of_the_input_field() -> None:
    (must,) = NoteQuery("k" * 5_000).as_elasticsearch()["bool"]["must"]
    assert must["simple_query_string"]["query"] == "k" * MAX_WORDS_LENGTH


@pytest.mark.parametrize("words", ["", " ", "\t\r\n", "\u3000"])
def test_blank_input_is_not_a_search(words: str) -> None:
    query = NoteQuery(words)
    assert not query.is_search
    assert query.as_elasticsearch() == {"bool": {"filter": [{"range": {"length": {"gt": 0}}}]}}
