"""What can go wrong with a slice, each as one class, so that callers decide by type.

Belongs here: failures of the pipeline's own rules. Servers that are down raise
`kp_platform.adapters.errors.ServerDown`.
"""


class SliceError(Exception):
    """The slice is not indexed; its positions have not moved; it can be tried again."""


class QueryFailed(SliceError):
    """Trino answered the slice's query with an error; its text names the connector at fault."""


class UndecodableMessage(QueryFailed):
    """Trino cannot decode one of the slice's messages, so it answers with none of them."""


class SuspectMessage(UndecodableMessage):
    """Trino failed inside, no server being down: one of the slice's messages may be the cause."""


class QueryTooLarge(QueryFailed):
    """Trino has not the memory for the slice; a smaller one may do."""


class IncompleteAnswer(SliceError):
    """Trino returned other offsets than the slice asked for."""


class PositionConflict(SliceError):
    """Another run moved a position of this slice first; that run has indexed it."""


class IndexBlocked(SliceError):
    """Elasticsearch refuses to write to an index; a person has to lift the block."""


class RequestTooLarge(SliceError):
    """Elasticsearch, or a proxy before it, refuses the size of a bulk request."""


class BulkOverloaded(SliceError):
    """Elasticsearch rejected documents because it is busy, until the deadline."""
