"""The built-in flows.

Belongs here: the flows of the folders beside this file, and names for those that the platform uses.
Does not belong here: what a flow is (`model.py`) and how it is run (`engine/`). A new folder is a
new flow; see docs/how-to/add-a-flow.md.
"""

from pathlib import Path

from kp_platform.flows.loading import load_flows
from kp_platform.flows.model import Flow, ReferenceRefresh, document_flows

_FIRST = ("access_log", "full_text", "reference_changes")

FLOWS = load_flows(Path(__file__).parent, first=_FIRST)


def _flow(name: str) -> Flow:
    return next(flow for flow in document_flows(FLOWS) if flow.name == name)


ACCESS_LOG, FULL_TEXT = _flow("access_log"), _flow("full_text")
[REFERENCE_CHANGES] = (
    flow
    for flow in FLOWS
    if isinstance(flow, ReferenceRefresh) and flow.name == "reference_changes"
)
