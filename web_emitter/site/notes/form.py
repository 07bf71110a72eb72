"""The form of a note: from the bytes of a request to a text or an error message.

Belongs here: parsing the form, its limits, the error messages. Does not belong here: cross-site
requests (`security.py`), the page (`pages.py`), the event (`emitter/events.py`).
"""

from urllib.parse import parse_qs

from starlette.requests import ClientDisconnect, Request

from web_emitter.emitter.events import MAX_TEXT_LENGTH, text_defect

FORM_TYPE = "application/x-www-form-urlencoded"
FIELD = "text"
# A character has at most four bytes, each sent as %XX; 100 bytes are for the field name.
MAX_BODY_BYTES = 12 * MAX_TEXT_LENGTH + 100


class FormRejected(Exception):
    """A request that is not this form; `status` is that of the response."""

    def __init__(self, status: int, heading: str, text: str) -> None:
        super().__init__(text)
        self.status = status
        self.heading = heading


class InvalidNote(ValueError):
    """A submitted text that cannot be a note. The message is shown to the visitor; `text` is the
    submitted text as far as it could be decoded."""

    def __init__(self, message: str, text: str) -> None:
        super().__init__(message)
        self.text = text


async def submitted_note(request: Request) -> str:
    """The text as the browser sent it, with CR LF as line breaks.

    Raises FormRejected when the request is not the form, InvalidNote when its text is invalid.
    """
    content_type = request.headers.get("content-type", "").partition(";")[0]
    if content_type.strip().lower() != FORM_TYPE:
        raise FormRejected(415, "Unsupported content type", f"Use {FORM_TYPE}.")
    text = _text(await _body(request))
    if message := _error(text):
        raise InvalidNote(message, text)
    return text


async def _body(request: Request) -> bytes:
    body = b""
    try:
        async for chunk in request.stream():
            body += chunk
            if len(body) > MAX_BODY_BYTES:
                limit = f"A note has at most {MAX_TEXT_LENGTH:,} characters."
                raise FormRejected(413, "Request too large", limit)
    except ClientDisconnect:
        raise FormRejected(400, "Incomplete request", "The client disconnected.") from None
    return body


def _text(body: bytes) -> str:
    if not body:
        return ""
    try:
        fields = parse_qs(
            body.decode(), keep_blank_values=True, strict_parsing=True, errors="strict"
        )
        (text,) = fields.get(FIELD, [""])
    except ValueError:  # not UTF-8, not name=value, or the field twice
        raise InvalidNote(
            "The form was not received completely. Please send it again.", ""
        ) from None
    return text


def _error(text: str) -> str | None:
    match text_defect(text):
        case None:
            return None
        case "empty":
            return "The note is empty: enter some text."
        case _:
            return (
                f"The text has {len(text):,} characters (a line break counts as two). "
                f"The maximum is {MAX_TEXT_LENGTH:,}."
            )
