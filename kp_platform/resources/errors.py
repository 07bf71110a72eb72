"""What a connection raises when its server cannot be used."""


class ServerDown(Exception):
    """A server does not answer. The text names the server, its address and the setting."""

    def __init__(self, server: str, address: str, setting: str, cause: object) -> None:
        reason = " ".join(str(cause).split())[:300]
        super().__init__(
            f"{server} does not answer at {address} (setting {setting}): {reason}; "
            "see `kp status`, start the local servers with `kp up`"
        )


class TopicMissing(Exception):
    """A flow's topic does not exist."""

    def __init__(self, topic: str, address: str) -> None:
        super().__init__(
            f"topic {topic} does not exist on {address}; `kp up` creates it on the local broker"
        )
