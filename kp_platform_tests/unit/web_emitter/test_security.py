"""Which requests come from another site."""

import pytest
from starlette.datastructures import Headers

from web_emitter.site.security import SECURITY_HEADERS, is_cross_site

HOST = "kp.test:18000"


@pytest.mark.parametrize(
    ("headers", "is_refused"),
    [
        ({"sec-fetch-site": "same-origin"}, False),
        ({"sec-fetch-site": "none"}, False),  # typed or bookmarked
        ({"sec-fetch-site": "same-site"}, True),  # another subdomain, or another port
        ({"sec-fetch-site": "cross-site"}, True),
        ({"sec-fetch-site": "Same-Origin"}, True),  # no browser writes it so
        ({"sec-fetch-site": "cross-site", "origin": f"http://{HOST}"}, True),  # it decides alone
        ({"sec-fetch-site": "same-origin", "origin": "null"}, False),  # a page of no-referrer
        ({}, False),  # not a browser
        ({"origin": ""}, False),
        ({"origin": f"http://{HOST}"}, False),
        ({"origin": f"https://{HOST}"}, False),  # behind a proxy that has the certificate
        ({"origin": "http://kp.test"}, True),  # another port
        ({"origin": "http://evil.test"}, True),
        ({"origin": f"http://{HOST}.evil.test"}, True),
        ({"origin": f"http://{HOST}@evil.test"}, True),
        ({"origin": "null"}, True),  # sandboxed, or a page of no-referrer
        ({"origin": "null", "host": ""}, True),
        ({"origin": "http://[::1"}, True),  # no URL
        ({"sec-fetch-site": "", "origin": "http://evil.test"}, True),  # as if it were not there
    ],
)
def test_a_request_of_another_site_is_known(headers: dict[str, str], is_refused: bool) -> None:
    assert is_cross_site(Headers({"host": HOST} | headers)) == is_refused


def test_the_headers_are_those_that_keep_foreign_text_harmless() -> None:
    """No script that is not a file of ours, no guessed type, no copy kept, no frame around us."""
    policy = dict(
        part.split(" ", 1) for part in SECURITY_HEADERS["Content-Security-Policy"].split("; ")
    )
    assert policy["default-src"] == "'self'"
    assert not {"script-src", "style-src"} & policy.keys()  # so default-src is theirs
    assert policy["frame-ancestors"] == policy["object-src"] == policy["base-uri"] == "'none'"
    assert "unsafe" not in str(policy)
    assert SECURITY_HEADERS["X-Content-Type-Options"] == "nosniff"
    assert SECURITY_HEADERS["X-Frame-Options"] == "DENY"
    assert SECURITY_HEADERS["Cache-Control"] == "no-store"
