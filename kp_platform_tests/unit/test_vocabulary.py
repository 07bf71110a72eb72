"""One word per idea: replaced words are not used in documentation, help texts and identifiers.

Belongs here: the replaced words, the texts that are searched, and exceptions with their reasons.
Does not belong here: definitions of the words in use, which are part of the documentation.

    python -m kp_platform_tests.unit.test_vocabulary

prints all findings, including those in string literals, as `file:line: word -> replacement`.
"""

import ast
import io
import re
import tokenize
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest
import typer

from kp_platform.cli.main import app
from kp_platform_tests.stack import ROOT
from kp_platform_tests.tools.reference_docs import COLLECTORS, SETTINGS, metric_name, settings_of

PACKAGES = ("kp_platform", "web_emitter", "kp_platform_tests")
DOCUMENTATION = ("README.md", "docs/**/*.md", "docs/**/*.yaml", "web_emitter/site/**/*.html")

# Words of an identifier, split at underscores and capitals, and their replacements.
TOKENS: Mapping[str, str] = {
    "announce announced announcement announcer announces": "publish",
    "anew": "again",
    "beat beats": "heartbeat",
    "board boards": "ranking",
    "book": "delivery ledger",
    "buried buries bury grave": "store (a dead letter)",
    "coverage": "completeness check",
    "drain drained drains": "run",
    "exchange exchanged": "index swap",
    "facts others": "reference data",
    "forget forgets forgotten": "unregister",
    "halve halved suspicion": "bisection",
    "held": "positions",
    "house houses keeper keepers world worlds": "harness, supervisor",
    "housekeeping": "retention",
    "lease leased leases": "heartbeat",
    "losses": "gaps",
    "mark marks": "watermarks, position, checkpoint",
    "mend mended mends": "fix",
    "part": "slice, offset range, partition",
    "place places": "rank, position, location",
    "remember remembered remembers": "cache",
    "said say says tell tells told": "report, log",
    "silent": "stalled",
    "span spans": "offset range",
    "throttle throttled": "RateLimitedLogger",
}
CLASSES: Mapping[str, str] = {
    "Keep": "RetentionPolicy",
    "Keys": "LookupPushdown",
    "Letter": "DeadLetter",
    "Old": "Expired",
    "Pipeline": "Indexer",
    "SliceTaken": "PositionConflict",
}
# Phrases of lower-case prose; a space matches any white space. Words that also have an ordinary
# sense are listed with the context of the replaced sense.
PHRASES: Mapping[str, str] = {
    r"\[ran\]": "verified against <server and version>",
    r"a look|(?:each|every|one|next|this|hard) looks?": "read, check",
    r"anew": "again",
    r"announc\w*|hand(?:s|ed|ing)? (?:over|it to|them to)": "publish, produce, deliver",
    r"boards?|places|(?:each|every|first|its) place": "ranking, rank",
    r"bur(?:y|ied|ies|ying)|graves?": "store (a dead letter)",
    r"by (?:itself|themselves)": "automatically",
    r"documents?(?: that)?(?: must)? follow|follow already": "reference refresh",
    r"drain(?:s|ed|ing)?": "run",
    r"exchang\w+ (?:of )?(?:an? |the )?ind(?:ex|ices)": "index swap",
    r"tak(?:es?|en|ing) (?:the )?place": "index swap, replace",
    r"facts": "reference data",
    r"forgets?|notes? of (?:the |an )?ind(?:ex|ices)": "unregister, index registry",
    r"halv(?:e|es|ed|ing)|suspicion|suspects|suspected": "bisection",
    r"house|keepers?": "harness",
    r"housekeep\w*|keeps? house": "retention",
    r"its like|of its own accord|who only|is up to you|woken up|(?:has|have) not the": "(rephrase)",
    r"leases?|beats?|(?:is|are|was|were|be|been|goes|went) silent|silence": "heartbeat, stalled",
    r"letters?": "dead letter",
    r"(?:low|high) marks?": "watermark",
    r"(?:made|make|makes|reads?) again": "reprocess, replay",
    r"meanwhile": "(omit)",
    r"mend(?:s|ed|ing)?": "fix",
    r"of now": "current",
    r"pass(?:es|ed)? over": "gap",
    r"so (?:many|much)": "a number",
    r"spans?": "range",
    r"tells?|told|says?|said|knows": "report, log, contain",
    r"ticks? off": "completeness check",
}
# What is removed from prose before the search: other senses of these words.
ORDINARY: Mapping[str, str] = {
    r"dead[-\s]+letters?": "the word in use",
    r"(?:capital|lower-case|upper-case)\s+letters?": "of the alphabet",
    r"decimal\s+places": "of a number",
    r"hello/world": "the URL of the demo",
    r"\{[{%].*?[%}]\}": "expressions of Jinja",
    r"</?\w[^>]*>?": "tags of HTML, such as span",
}
ALLOWED: Mapping[str, str] = {
    "replay_in_place": "as in an update in place",
    "pytestmark": "the name that pytest defines",
    "silent": "a server that accepts connections and sends nothing",
}


@dataclass(frozen=True, slots=True)
class Finding:
    """A replaced word. `where` is `file:line`, or the name of a command, setting or metric."""

    where: str
    word: str
    replacement: str

    def __str__(self) -> str:
        return f"{self.where}: {self.word} -> {self.replacement}"


REPLACED = {word: instead for words, instead in TOKENS.items() for word in words.split()}
WORDS = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+")
ANY_ORDINARY = re.compile("|".join(ORDINARY))
PATTERNS = {
    re.compile(rf"(?<!\w)(?:{phrase})(?!\w)".replace(" ", r"\s+")): replacement
    for phrase, replacement in PHRASES.items()
}

ANY_PHRASE = re.compile("|".join(pattern.pattern for pattern in PATTERNS))


@cache
def in_identifier(name: str) -> list[tuple[str, str]]:
    """Each replaced word of an identifier. The name of a test is a sentence, so it is prose."""
    if name.startswith("test_"):
        sentence = name.removeprefix("test_").replace("_", " ")
        return [(f"{phrase} in {name}", instead) for _, phrase, instead in in_prose(sentence)]
    found = [(name, CLASSES[name])] if name in CLASSES else []
    words = [word.lower() for word in WORDS.findall(name)]
    for before, word in zip(["", *words], words, strict=False):
        if word in {"letter", "letters"} and before != "dead":
            found.append((f"{word} in {name}", "dead_letter"))
        elif word in REPLACED and name not in ALLOWED:
            found.append((f"{word} in {name}", REPLACED[word]))
    return found


def in_prose(text: str) -> Iterator[tuple[int, str, str]]:
    """Each replaced phrase of a text: its line, counted from 0, the phrase, the replacement."""
    lowered = ANY_ORDINARY.sub(lambda match: re.sub(r"\S", "_", match[0]), text.lower())
    if not ANY_PHRASE.search(lowered):  # most texts have none
        return
    for pattern, replacement in PATTERNS.items():
        for match in pattern.finditer(lowered):
            yield lowered.count("\n", 0, match.start()), " ".join(match[0].split()), replacement


def identifiers(tree: ast.Module) -> Iterator[tuple[int, str]]:
    """Line and name of everything that a module defines. Names that it only uses are defined in
    another module, or by others."""
    for node in ast.walk(tree):
        match node:
            case ast.FunctionDef() | ast.AsyncFunctionDef() | ast.ClassDef():
                yield node.lineno, node.name
            case ast.arg():
                yield node.lineno, node.arg
            case ast.Name(ctx=ast.Store()):
                yield node.lineno, node.id
            case ast.Attribute(ctx=ast.Store()):
                yield node.lineno, node.attr
            case ast.alias(asname=str() as name):
                yield node.lineno, name


def comments(source: str, tree: ast.Module) -> Iterator[tuple[int, str]]:
    """Line and text of each docstring and of each block of comments."""
    yield from docstrings(tree)
    block: list[tuple[int, str]] = []
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            line = token.start[0]
            if block and line == block[-1][0] + 1:
                block.append((line, token.string.lstrip("# ")))
                continue
            if block:
                yield block[0][0], "\n".join(text for _, text in block)
            block = [(line, token.string.lstrip("# "))]
    if block:
        yield block[0][0], "\n".join(text for _, text in block)


def docstrings(tree: ast.Module) -> Iterator[tuple[int, str]]:
    for node in ast.walk(tree):
        match node:
            case ast.Expr(value=ast.Constant(value=str() as text)):
                yield node.lineno, text


def literals(tree: ast.Module) -> Iterator[tuple[int, str]]:
    """Line and text of each string literal with a space that is not a docstring."""
    skipped = set(docstrings(tree))
    for node in ast.walk(tree):
        match node:
            case ast.Constant(value=str() as text) if " " in text:
                if (node.lineno, text) not in skipped:
                    yield node.lineno, text


@cache
def modules() -> Mapping[Path, tuple[str, ast.Module]]:
    """Source and syntax tree of every module except this one, by path."""
    paths = sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))
    sources = {path: path.read_text() for path in paths if path != Path(__file__)}
    return {path: (source, ast.parse(source)) for path, source in sources.items()}


def in_text(path: Path, line: int, text: str) -> Iterator[Finding]:
    for offset, word, replacement in in_prose(text):
        yield Finding(f"{path.relative_to(ROOT)}:{line + offset}", word, replacement)


def findings_in_identifiers() -> Iterator[Finding]:
    for path, (_, tree) in modules().items():
        for line, name in sorted({*identifiers(tree), (1, path.stem)}):
            for word, replacement in in_identifier(name):
                yield Finding(f"{path.relative_to(ROOT)}:{line}", word, replacement)


def findings_in_comments() -> Iterator[Finding]:
    for path, (source, tree) in modules().items():
        for line, text in comments(source, tree):
            yield from in_text(path, line, text)


def findings_in_literals() -> Iterator[Finding]:
    for path, (_, tree) in modules().items():
        for line, text in literals(tree):
            yield from in_text(path, line, text)


def findings_in_documentation() -> Iterator[Finding]:
    for pattern in DOCUMENTATION:
        for path in sorted(ROOT.glob(pattern)):
            yield from in_text(path, 1, path.read_text())
    path = ROOT / "CHANGELOG.md"
    newest = "## ".join(re.split(r"^## ", path.read_text(), maxsplit=2, flags=re.M)[:2])
    # Its code and tables list the names of previous versions.
    yield from in_text(path, 1, re.sub(r"`[^`\n]*`|^\|.*$", "", newest, flags=re.M))


def contexts(context: typer.Context) -> Iterator[typer.Context]:
    """A command, then its subcommands."""
    yield context
    if isinstance(context.command, typer.core.TyperGroup):
        for name, command in context.command.commands.items():
            yield from contexts(typer.Context(command, info_name=name, parent=context))


def findings_in_help() -> Iterator[Finding]:
    for each in contexts(typer.Context(typer.main.get_command(app), info_name="kp")):
        for _, word, replacement in in_prose(each.command.get_help(each)):
            yield Finding(f"{each.command_path} --help", word, replacement)


def findings_in_settings_and_metrics() -> Iterator[Finding]:
    described = [
        (each.name, each.description) for model in SETTINGS.values() for each in settings_of(model)
    ]
    for collector in COLLECTORS.values():
        described += [(metric_name(each), each.documentation) for each in collector().collect()]
    for name, description in dict(described).items():
        for word, replacement in in_identifier(name.lower()):
            yield Finding(name, word, replacement)
        for _, word, replacement in in_prose(description):
            yield Finding(name, word, replacement)


CHECKS: Mapping[str, Callable[[], Iterator[Finding]]] = {
    "documentation": findings_in_documentation,
    "help texts": findings_in_help,
    "settings and metrics": findings_in_settings_and_metrics,
    "identifiers": findings_in_identifiers,
    "comments and docstrings": findings_in_comments,
}


@pytest.mark.parametrize("kind", CHECKS)
def test_no_replaced_word_is_in_use(kind: str) -> None:
    found = [str(each) for each in CHECKS[kind]()]
    assert not found, "\n".join(["", *found])


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("drain_all", ["drain"]),
        ("PositionMark", ["mark"]),
        ("HTTPBoard", ["board"]),
        ("letters", ["letters"]),
        ("dead_letters", []),
        ("partition", []),  # contains a replaced word, and is a word of Kafka
        ("Pipeline", ["Pipeline"]),
        ("pipeline", []),  # a method of redis
        ("test_a_document_is_made_again", ["made again"]),
        ("test_a_part_of_a_bulk_request", []),  # a sentence, with the ordinary sense
    ],
)
def test_a_replaced_word_in_an_identifier_is_detected(name: str, words: list[str]) -> None:
    assert [word.partition(" in ")[0] for word, _ in in_identifier(name)] == words


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("Letters are buried.", ["buried", "letters"]),
        ("Dead letters are stored; a dead-letter queue; dead\n    letters.", []),
        ("The heartbeat of a run.", []),
        ("With the values\nof now.", ["of now"]),
        ("The documents follow.", ["documents follow"]),
        ("Documents of the following days.", []),
        ("Verified [ran].", ["[ran]"]),
        ('<span title="Age">5 s</span>', []),
    ],
)
def test_a_replaced_phrase_in_prose_is_detected(text: str, words: list[str]) -> None:
    assert [word for _, word, _ in in_prose(text)] == words


def test_a_finding_names_its_line() -> None:
    assert [line for line, *_ in in_prose("One.\nTwo.\nLetters.\n")] == [2]


if __name__ == "__main__":
    for check in (*CHECKS.values(), findings_in_literals):
        for finding in check():
            print(finding)
