"""Detection of cross-site requests, and the security headers."""

import pytest
from starlette.datastructures import Headers

from web_emitter.site.security import SECURITY_HEADERS, is_cross_site

HOST = "kp.test:18000"


@pytest.mark.parametrize(
    ("headers", "is_rejected"),
    [
        ({"sec-fetch-site": "same-origin"}, False),
        ({"sec-fetch-site": "none"}, False),  # typed or bookmarked
        ({"sec-fetch-site": "same-site"}, True),  # another subdomain, or another port
        ({"sec-fetch-site": "cross-site"}, True),
        ({"sec-fetch-site": "Same-Origin"}, True),  # no browser sends this
        ({"sec-fetch-site": "cross-site", "origin": f"http://{HOST}"}, True),  # takes precedence
        ({"sec-fetch-site": "same-origin", "origin": "null"}, False),  # a page of no-referrer
        ({}, False),  # not a browser
        ({"origin": ""}, False),
        ({"origin": f"http://{HOST}"}, False),
        ({"origin": f"https://{HOST}"}, False),  # behind a TLS proxy
        ({"origin": "http://kp.test"}, True),  # another port
        ({"origin": "http://evil.test"}, True),
        ({"origin": f"http://{HOST}.evil.test"}, True),
        ({"origin": f"http://{HOST}@evil.test"}, True),
        ({"origin": "null"}, True),  # sandboxed, or a page of no-referrer
        ({"origin": "null", "host": ""}, True),
        ({"origin": "http://[::1"}, True),  # not a URL
        ({"sec-fetch-site": "", "origin": "http://evil.test"}, True),  # treated as missing
    ],
)
def test_a_cross_site_request_is_detected(headers: dict[str, str], is_rejected: bool) -> None:
    assert is_cross_site(Headers({"host": HOST} | headers)) == is_rejected


def test_the_security_headers_restrict_foreign_content() -> None:
    """Only own script files, no content sniffing, no caching, no framing."""
    policy = dict(
        directive.split(" ", 1)
        for directive in SECURITY_HEADERS["Content-Security-Policy"].split("; ")
    )
    assert policy["default-src"] == "'self'"
    assert not {"script-src", "style-src"} & policy.keys()  # default-src applies
    assert policy["frame-ancestors"] == policy["object-src"] == policy["base-uri"] == "'none'"
    assert "unsafe" not in str(policy)
    assert SECURITY_HEADERS["X-Content-Type-Options"] == "nosniff"
    assert SECURITY_HEADERS["X-Frame-Options"] == "DENY"
    assert SECURITY_HEADERS["Cache-Control"] == "no-store"
