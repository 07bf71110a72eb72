"""The form of a note: from the bytes of a request to a text, or to the reason why not.

Belongs here: what the form sends, its limits, the words for what is wrong. Does not belong here:
whether the request may come at all (`security.py`), the page (`pages.py`), the event
(`events.py`).
"""

from urllib.parse import parse_qs

from starlette.requests import ClientDisconnect, Request

from web_emitter.emitter.events import MAX_TEXT_LENGTH, text_defect

FORM_TYPE = "application/x-www-form-urlencoded"
FIELD = "text"
# A character is at most four bytes, each sent as %XX; then the field's name.
MAX_BODY_BYTES = 12 * MAX_TEXT_LENGTH + 100


class FormRefused(Exception):
    """A request that is not this form; `status` is the answer's."""

    def __init__(self, status: int, heading: str, text: str) -> None:
        super().__init__(text)
        self.status = status
        self.heading = heading


class InvalidNote(ValueError):
    """What somebody sent cannot be a note: the message tells them why; `text` is what they sent,
    as far as it could be read."""

    def __init__(self, message: str, text: str) -> None:
        super().__init__(message)
        self.text = text


async def submitted_note(request: Request) -> str:
    """The text as the browser sent it, its line breaks being CR LF.

    Raises FormRefused when the request is not the form, InvalidNote when its text is no note.
    """
    content_type = request.headers.get("content-type", "").partition(";")[0]
    if content_type.strip().lower() != FORM_TYPE:
        raise FormRefused(415, "That is not the form", f"Send it as {FORM_TYPE}.")
    text = _text(await _body(request))
    if message := _complaint(text):
        raise InvalidNote(message, text)
    return text


async def _body(request: Request) -> bytes:
    body = b""
    try:
        async for chunk in request.stream():
            body += chunk
            if len(body) > MAX_BODY_BYTES:
                limit = f"A note has at most {MAX_TEXT_LENGTH:,} characters."
                raise FormRefused(413, "That is far too long", limit)
    except ClientDisconnect:
        raise FormRefused(400, "The form did not arrive", "The visitor left.") from None
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
        raise InvalidNote("The form did not arrive whole. Please send it again.", "") from None
    return text


def _complaint(text: str) -> str | None:
    match text_defect(text):
        case None:
            return None
        case "empty":
            return "Write something: blanks alone are no note."
        case _:
            return (
                f"These are {len(text):,} characters, a line break counting as two. "
                f"A note has at most {MAX_TEXT_LENGTH:,}."
            )
