"""The pages of the notes: search, form, registration.

Belongs here: requests to templates, and publishing a submitted note. Does not belong here: parsing
the form (`form.py`), requests to Elasticsearch (`search.py`).
"""

from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from web_emitter.emitter.events import MAX_TEXT_LENGTH, FullTextEvent
from web_emitter.site.notes.form import FormRejected, InvalidNote, submitted_note
from web_emitter.site.notes.search import NoteQuery
from web_emitter.site.responses import message, page, settings_of, unavailable
from web_emitter.site.search import MAX_WORDS_LENGTH, SearchUnavailable
from web_emitter.site.security import FORM_HEADERS, is_cross_site


async def notes(request: Request) -> Response:
    """The newest notes, the results of a search, or instructions when there are none."""
    query = NoteQuery(request.query_params.get("q", ""))
    context = {
        "query": query,
        "max_search_length": MAX_WORDS_LENGTH,
        "max_shown": MAX_TEXT_LENGTH,  # other producers may publish longer texts
    }
    try:
        results = await request.state.notes.search(query)
    except SearchUnavailable as error:
        return unavailable(request, "notes_unavailable.html", context, error)
    return page(request, "notes.html", context | {"results": results})


async def note_form(request: Request) -> Response:
    return _form(request)


async def register_note(request: Request) -> Response:
    """Publish a note and redirect to a page that can be reloaded safely."""
    if is_cross_site(request.headers):
        text = "A note is only accepted from the form of this site."
        return message(request, 403, "Request from another site", text)
    try:
        text = await submitted_note(request)
    except FormRejected as rejected:
        return message(request, rejected.status, rejected.heading, str(rejected))
    except InvalidNote as invalid:
        return _form(request, 422, text=invalid.text, error=str(invalid))
    source = settings_of(request).emitter_source
    if not request.state.note_sink.publish(FullTextEvent(text=text, source=source)):
        return _form(request, 503, text=text, is_dropped=True)
    return RedirectResponse("/fulltext/registered", 303)


async def note_registered(request: Request) -> Response:
    return page(request, "note_registered.html", {})


def _form(
    request: Request,
    status: int = 200,
    *,
    text: str = "",
    error: str | None = None,
    is_dropped: bool = False,
) -> Response:
    context = {"text": text, "error": error, "is_dropped": is_dropped}
    response = page(request, "note_form.html", {"max_length": MAX_TEXT_LENGTH} | context, status)
    response.headers.update(FORM_HEADERS)
    return response
