"""The built-in flows, declared.

Belongs here: one value for each flow. Does not belong here: what a flow is (`model.py`) and how it
is run (`engine/`). A new flow is a new value here and a folder with `query.sql`, `table.json` and
`mapping.json`; see docs/how-to/add-a-flow.md.
"""

from pathlib import Path

from kp_platform.flows.model import Flow, Rewrite

_FOLDERS = Path(__file__).parent

ACCESS_LOG = Flow(
    name="access_log",
    folder=_FOLDERS / "access_log",
    topic="analyze.action",
    index="log.index",
    asset="enriched_access_log",
    description="Every access of a web application, with the MySQL row and Redis value of its name",
    fields=("uuid", "uri", "name"),
    references={"mysql": "test_id", "redis": "redis_key"},
    stale_hours=24,
)

FULL_TEXT = Flow(
    name="full_text",
    folder=_FOLDERS / "full_text",
    topic="fulltext.register",
    index="fulltext.register",
    asset="full_text_notes",
    description="Every note that a visitor registered, searchable by its words",
    fields=("uuid", "text"),
)

REFERENCE_CHANGES = Flow(
    name="reference_changes",
    folder=_FOLDERS / "reference_changes",
    topic="reference.changed",
    index=ACCESS_LOG.index,
    asset="refreshed_references",
    description="Access logs rewritten after the MySQL row or Redis value of their name changed",
    fields=("source", "key"),
    allowed={"source": tuple(ACCESS_LOG.references)},
    references=ACCESS_LOG.references,
    rewrites=Rewrite(target=ACCESS_LOG, key_field="key", document_field="name"),
    slice_rows=500,  # each key of a slice is looked for in the index by itself
)

FLOWS = (ACCESS_LOG, FULL_TEXT, REFERENCE_CHANGES)
