"""Redaction of a URI: keys, allowed values that look harmless, and paths are kept."""

import string
from time import process_time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from web_emitter.emitter.events import MAX_URI_LENGTH, is_visible_ascii
from web_emitter.emitter.redaction import REDACTED, Redaction, is_denied

ALLOWED = ("page", "sort", "q")
JWT = "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0.c2lnbmF0dXJl"


def redacted(uri: str) -> str:
    return Redaction(ALLOWED)(uri)


@pytest.mark.parametrize(
    "uri",
    [
        "/",
        "*",
        "/a/../../etc/%2f..%2f/%ff%fe/%00%0d%0a",  # neither decoded nor normalised
        "/?",  # a query that is empty
        "/?&&;",
        "/?page=1&sort=-name,date&q=red%20shoes+size%2042",
        "/?PAGE=1",  # case-insensitive
        "/?p%61ge=1",  # decoded before the comparison
        "/?page=%ff",  # not UTF-8, stored as received
        "/?page=1&page=2",
        "/?token=&unknown=",  # nothing to redact
        "/?=",
        "/?page",  # a flag that is allowed
        "/orders/0b1c6b1e-6f0f-4d3b-9a57-0d6f4d1f2a01",  # identifiers are expected in a path
        "/orders/41111111-1111-1111-8abc-0d6f4d1f2a01",  # the first 16 pass as a card number
        "/blobs/da39a3ee5e6b4b0d3255bfef95601890afd80709",
        "/@name/status/1234567890",
        "/package@1.2.3/index.js",
        "/tel/4111111111111112",  # not a card number: wrong check digit
        "/at/1700000000000000000000",  # too long for a card number
    ],
)
def test_harmless_uris_are_unchanged(uri: str) -> None:
    redaction = Redaction(ALLOWED)
    assert redaction(uri) == uri
    assert redaction.count == 0


@pytest.mark.parametrize(
    ("uri", "stored", "count"),
    [
        # a key that is not allowed
        ("/x?name=presto", "/x?name=REDACTED", 1),
        ("/x?user[email]=a&page=2", "/x?user[email]=REDACTED&page=2", 1),
        ("/x?=value", "/x?=REDACTED", 1),
        ("/x?a=1;b=2&c=3", "/x?a=REDACTED;b=REDACTED&c=REDACTED", 3),
        ("/x?page=1;token=x", "/x?page=1;token=REDACTED", 1),
        # a value that looks like a secret, below a key that is allowed
        (f"/x?q={JWT}", "/x?q=REDACTED", 1),
        ("/x?q=jane.doe%2Btag%40example.com", "/x?q=REDACTED", 1),
        ("/x?q=write+to+jane@example.com", "/x?q=REDACTED", 1),
        ("/x?q=4111111111111111", "/x?q=REDACTED", 1),
        ("/x?q=4111+1111+1111+1111", "/x?q=REDACTED", 1),
        ("/x?q=5500-0000-0000-0004", "/x?q=REDACTED", 1),
        ("/x?q=378282246310005", "/x?q=REDACTED", 1),
        ("/x?q=0123456789abcdef", "/x?q=REDACTED", 1),
        ("/x?q=0b1c6b1e-6f0f-4d3b-9a57-0d6f4d1f2a01", "/x?q=REDACTED", 1),
        ("/x?q=aGVsbG8gd29ybGQgaGVsbG8=", "/x?q=REDACTED", 1),
        ("/x?q=KRUGS4ZANFZSAYJAONSWG4TFOQ", "/x?q=REDACTED", 1),
        # another query or encoding inside
        ("/x?q=1?token=abc", "/x?q=REDACTED", 1),
        ("/x?q=%2Fnext%3Ftoken%3Dabc", "/x?q=REDACTED", 1),
        ("/x?q=jane%2540example.com", "/x?q=REDACTED", 1),
        # no key at all
        (f"/x?{JWT}", "/x?REDACTED", 1),
        ("/x?hunter2", "/x?REDACTED", 1),
        ("/x?aGVsbG8gd29ybGQgaGVsbG8=", "/x?REDACTED=", 1),
        ("/x?jane@example.com=1", "/x?REDACTED=REDACTED", 2),
        # the path
        (f"/reset/{JWT}/now", "/reset/REDACTED/now", 1),
        ("/users/jane%40example.com", "/users/REDACTED", 1),
        ("/pay/4111111111111111", "/pay/REDACTED", 1),
        ("/pay/4111-1111-1111-1111", "/pay/REDACTED", 1),
        ("/x;jsessionid=1A2B/y;v", "/x;jsessionid=REDACTED/y;REDACTED", 2),
        # a fragment, which a browser does not send
        ("/x#access_token=abc", "/x#REDACTED", 1),
        ("/x?page=1#a", "/x?page=1#REDACTED", 1),
    ],
)
def test_secret_and_personal_data_is_redacted_and_counted(
    uri: str, stored: str, count: int
) -> None:
    redaction = Redaction(ALLOWED)
    assert redaction(uri) == stored
    assert redaction.count == count


@pytest.mark.parametrize(
    "key",
    ["token", "X-Access-Token", "PASSWORD", "passwd", "client_secret", "api_key", "apiKey"]
    + ["Authorization", "PHPSESSIONID", "code", "sid", "connect.sid", "e-mail", "sig", "card_no"],
)
def test_no_setting_allows_a_key_that_names_a_secret(key: str) -> None:
    assert is_denied(key)
    with pytest.raises(ValueError, match=f"(?i){key}.*always redacted"):
        Redaction(["page", key])


@pytest.mark.parametrize("key", ["page", "sort", "side", "spinning", "design", "q"])
def test_a_key_that_only_resembles_a_denied_one_may_be_allowed(key: str) -> None:
    assert not is_denied(key)


@given(st.text(string.printable.strip(), max_size=60).map(lambda text: f"/?{text}"))
def test_the_redacted_uri_of_any_query_can_be_stored(uri: str) -> None:
    once = redacted(uri)
    assert is_visible_ascii(once)
    assert redacted(once.replace(REDACTED, "")) is not None


@given(st.text("ab%=&;?#@.+/1", max_size=40))
def test_no_value_of_a_key_that_is_not_allowed_is_kept(value: str) -> None:
    query = redacted(f"/?a={value}").partition("?")[2].partition("#")[0]
    for piece in query.replace(";", "&").split("&"):
        assert piece.partition("=")[2] in {"", REDACTED}


@pytest.mark.parametrize(
    "uri",
    [
        "/?" + "&".join(f"a{number}=1" for number in range(10_000)),
        "/?" + "&" * 64_000,
        "/" + "/" * 64_000,
        "/?q=" + "eyJ" * 20_000,
        "/?q=" + "eyJa." * 12_000,
        "/?q=" + "a@" * 32_000,
        "/?q=" + "a@a." * 16_000,
        "/?q=" + "4 " * 32_000,
        "/?q=" + "a-" * 32_000,
        "/" + "a@" * 32_000,
        "/" + "1-" * 32_000,
        "/" + ";" * 64_000,
    ],
    ids=lambda uri: uri[:8],
)
def test_redaction_of_the_longest_urls_takes_milliseconds(uri: str) -> None:
    started = process_time()
    assert len(redacted(uri)[:MAX_URI_LENGTH]) > 0
    assert process_time() - started < 0.25
