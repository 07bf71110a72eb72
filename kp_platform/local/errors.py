"""What goes wrong with a local stack, as one line that a person can act on.

Belongs here: the exception that `kp` prints. Does not belong here: a server that does not answer
(`resources/errors.py`).
"""


class StackError(RuntimeError):
    """The local stack cannot do what was asked; the message names the cause and the way out.

    `details` are further lines for a person, e.g. the end of a log.
    """

    def __init__(self, message: str, details: tuple[str, ...] = ()) -> None:
        super().__init__(message)
        self.details = details
