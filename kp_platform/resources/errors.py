"""What a connection raises when its server cannot be used."""

from kp_platform.settings import without_password


class ServerDown(Exception):
    """A server cannot be used: it does not answer, or `problem` says what it does instead.

    The text names the server, its address and the setting; it has no password.
    """

    def __init__(
        self,
        server: str,
        address: str,
        setting: str,
        cause: object,
        problem: str = "does not answer",
    ) -> None:
        reason = " ".join(str(cause).split())[:300]
        super().__init__(
            f"{server} {problem} at {without_password(address)} (setting {setting}): {reason}; "
            "see `kp status`, start the local servers with `kp up`"
        )


class TopicMissing(Exception):
    """A flow's topic does not exist."""

    def __init__(self, topic: str, address: str) -> None:
        super().__init__(
            f"topic {topic} does not exist at {address} (setting KP_KAFKA_BOOTSTRAP_SERVERS); "
            "`kp up` creates it on the local broker"
        )
