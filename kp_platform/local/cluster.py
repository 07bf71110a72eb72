"""The settings of a stack that is a cluster.

Belongs here: the settings that `kp up --cluster` stores in KP_HOME. Does not belong here: what the
servers do with them (`kafka.py`, `trino.py`).
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
        "KP_START_TIMEOUT_SECONDS": "600",  # two busy cores need 140 s
    }
