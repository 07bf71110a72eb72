"""Removal of secret and personal data from a URI; all other bytes stay as they were received.

Belongs here: which parts of a URI are secret or personal. Does not belong here: reading a request
(`events.uri_as_received`, which omits user and password), names (`identity.py`).

A query value is kept only if its key is allowed, no rule denies the key, and the decoded value
does not look secret: no JWT, e-mail address, card number, long hex or base64, nested query or
encoding. A piece without `=` is a value without a key. In a path, where identifiers are expected,
JWTs, e-mail addresses, card numbers and the values of matrix parameters (`;jsessionid=`) are
redacted. A fragment is no part of a request and is redacted completely.

Time is linear in what is stored: redaction stops where the URI of an event is truncated.
"""

import re
from collections.abc import Iterable
from urllib.parse import unquote, unquote_plus

from web_emitter.emitter.events import MAX_URI_LENGTH

REDACTED = "REDACTED"

_DENIED_INSIDE = re.compile(
    "token|passw|pwd|secret|key|auth|session|code|credential|signature|jwt|cookie|mail|phone|card"
)
_DENIED_WORDS = frozenset({"sid", "sig", "otp", "pin", "cvc", "cvv", "ssn", "iban"})
_WORD = re.compile("[a-z0-9]+")

_SEPARATORS = ("&", ";")
_SEPARATOR = re.compile("([&;])")
# A path without a match, and a key or value that is plain, needs no further check.
_SUSPICIOUS_PATH = re.compile("[@;%]|eyJ|[2-6](?:[ -]?[0-9]){12}")
_PLAIN = re.compile("[A-Za-z0-9_.,:-]{0,12}")
_JWT = re.compile(r"(?<![\w-])eyJ[\w-]++\.[\w-]")
_EMAIL = re.compile(r"[\w.+-]{1,64}@[\w-]{1,63}(?:\.[\w-]{1,63}){0,8}\.[^\W\d_]{2,24}")
# Not within a word, and not the beginning of a UUID that consists of digits.
_DIGITS = re.compile("(?<![0-9A-Za-z])[2-6](?:[ -]?[0-9]){12,18}(?![0-9A-Za-z]|-[0-9A-Fa-f]{4}-)")
_RUN = re.compile(r"[A-Za-z0-9_+/=-]{16,}+")
_HEX = re.compile("[0-9A-Fa-f]{16,}+")
_NESTED = re.compile("[%=?&;#]")


def is_denied(key: str) -> bool:
    """Whether the values of a key are always redacted: `token`, also in `X-Access-Token`."""
    lower = key.lower()
    return bool(_DENIED_INSIDE.search(lower)) or not _DENIED_WORDS.isdisjoint(_WORD.findall(lower))


class Redaction:
    """Redacts values in URIs and counts them. Raises ValueError for denied keys."""

    def __init__(self, allowed_keys: Iterable[str] = ()) -> None:
        self._allowed = frozenset(key.strip().lower() for key in allowed_keys if key.strip())
        plain = "|".join(re.escape(key) for key in self._allowed if _PLAIN.fullmatch(key))
        # Fast path for the pieces that most links of a page have and that are kept as they are.
        self._kept = re.compile(f"(?:{plain})=[A-Za-z0-9_.,:-]{{0,12}}" if plain else "(?!)")
        if denied := sorted(filter(is_denied, self._allowed)):
            raise ValueError(f"the values of {', '.join(denied)} are always redacted")
        self.count = 0

    def __call__(self, uri: str) -> str:
        """The URI without secrets; it is at least as long as the part that is stored."""
        target, hash_sign, fragment = uri.partition("#")
        path, query_sign, query = target.partition("?")
        if _SUSPICIOUS_PATH.search(path):
            path = self._path(path)
        if query:
            query = self._query(query)
        if fragment:
            fragment = self._redacted()
        return f"{path}{query_sign}{query}{hash_sign}{fragment}"

    def _path(self, path: str) -> str:
        kept: list[str] = []
        length = 0
        for segment in path.split("/"):
            kept.append(self._segment(segment))
            length += len(kept[-1]) + 1
            if length > MAX_URI_LENGTH + 1:
                break
        return "/".join(kept)

    def _segment(self, segment: str) -> str:
        name, *parameters = segment.split(";")
        if name and _is_personal(unquote(name)):
            name = self._redacted()
        return ";".join([name, *(self._parameter(each) for each in parameters)])

    def _parameter(self, parameter: str) -> str:
        key, equals, value = parameter.partition("=")
        if equals:
            return f"{self._key(key)}={self._redacted() if value else ''}"
        return self._redacted() if key else ""

    def _query(self, query: str) -> str:
        kept: list[str] = []
        length = 0
        for piece in _SEPARATOR.split(query):
            if piece not in _SEPARATORS and not self._kept.fullmatch(piece):
                piece = self._piece(piece)
            kept.append(piece)
            length += len(piece)
            if length > MAX_URI_LENGTH:
                break
        return "".join(kept)

    def _piece(self, piece: str) -> str:
        key, equals, value = piece.partition("=")
        is_allowed = _decoded(key).lower() in self._allowed
        if not equals:
            return piece if not piece or is_allowed else self._redacted()
        if value and not (is_allowed and not _is_secret(_decoded(value))):
            value = self._redacted()
        return f"{self._key(key)}={value}"

    def _key(self, key: str) -> str:
        """A key is redacted if it is an address or a token."""
        return self._redacted() if _is_secret(_decoded(key)) else key

    def _redacted(self) -> str:
        self.count += 1
        return REDACTED


def _decoded(text: str) -> str:
    return unquote_plus(text) if "%" in text or "+" in text else text


def _is_secret(text: str) -> bool:
    if _PLAIN.fullmatch(text):
        return False
    return (
        bool(_NESTED.search(text))
        or _is_personal(text)
        or any(_is_random(run) for run in _RUN.findall(text))
    )


def _is_personal(text: str) -> bool:
    return (
        ("eyJ" in text and bool(_JWT.search(text)))
        or ("@" in text and bool(_EMAIL.search(text)))
        or any(_is_card_number(digits) for digits in _DIGITS.findall(text))
    )


def _is_random(run: str) -> bool:
    """Long hex, also with the dashes of a UUID; or base64, which mixes cases and digits."""
    if _HEX.fullmatch(run.replace("-", "")):
        return True
    kinds = (str.isdigit, str.islower, str.isupper)
    return len(run) >= 20 and sum(any(map(kind, run)) for kind in kinds) >= 2


def _is_card_number(text: str) -> bool:
    """Checks the digit of ISO/IEC 7812 (Luhn)."""
    digits = [int(each) for each in reversed(text) if each.isdigit()]
    doubled = (sum(divmod(2 * each, 10)) for each in digits[1::2])
    return (sum(digits[::2]) + sum(doubled)) % 10 == 0
