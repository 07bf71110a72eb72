"""The failures of a local stack, as one line that names the setting and the fix.

Belongs here: the exception that `kp` prints. Does not belong here: a server that does not answer
(`adapters/errors.py`).
"""


class StackError(RuntimeError):
    """The local stack cannot do what was requested; the message names the cause and the fix.

    `details` are further lines, e.g. the end of a log.
    """

    def __init__(self, message: str, details: tuple[str, ...] = ()) -> None:
        super().__init__(message)
        self.details = details
