"""The web side: announces every access on Kafka and shows the enriched logs.

It stands apart: it never imports kp_platform and kp_platform never imports it. What they agree on
is the event contract, `presto_etc/kafka/*.json`.
"""
