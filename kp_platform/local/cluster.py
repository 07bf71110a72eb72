"""What makes a stack a cluster: settings, nothing else.

Belongs here: the settings that `kp up --cluster` keeps in KP_HOME. Does not belong here: what
follows from them (`servers.py`, `state.py`).
"""

BROKERS = (18_092, 18_096, 18_097)
"""Ports; those between are for the three controllers."""
WORKERS = 2
PARTITIONS = 12


def cluster(port_offset: int) -> dict[str, str]:
    """Three brokers, a coordinator with two workers, topics that two runs of a flow share."""
    addresses = (f"127.0.0.1:{port + port_offset}" for port in BROKERS)
    return {
        "KP_KAFKA_BOOTSTRAP_SERVERS": ",".join(addresses),
        "KP_TRINO_WORKERS": str(WORKERS),
        "KP_TOPIC_PARTITIONS": str(PARTITIONS),
        "KP_PARTITIONS_PER_RUN": str(PARTITIONS // 2),
        "KP_START_TIMEOUT_SECONDS": "600",  # two cores need 140 s while they have other work
    }
