"""The failures of a slice, one class each, so that callers decide by type.

Belongs here: failures of the engine's own rules. Servers that are down raise
`kp_platform.adapters.errors.ServerDown`.
"""


class SliceError(Exception):
    """The slice is not indexed; its positions have not moved; it can be retried."""


class QueryFailed(SliceError):
    """Trino answered the slice's query with an error; its text names the connector at fault."""


class UndecodableMessage(QueryFailed):
    """Trino cannot decode one message of the slice, so it returns none of them."""


class SuspectMessage(UndecodableMessage):
    """Trino failed internally while all servers were up: one of the messages may be the cause."""


class QueryTooLarge(QueryFailed):
    """The query exceeds Trino's memory limit; a smaller slice may succeed."""


class IncompleteAnswer(SliceError):
    """Trino returned other offsets than the slice requested."""


class PositionConflict(SliceError):
    """Another run moved a position of this slice first; that run has indexed the slice."""


class IndexBlocked(SliceError):
    """Elasticsearch refuses writes to an index until an operator lifts the block."""


class RequestTooLarge(SliceError):
    """Elasticsearch, or a proxy before it, refuses the size of a bulk request."""


class BulkOverloaded(SliceError):
    """Elasticsearch rejected operations as too busy until the deadline."""
