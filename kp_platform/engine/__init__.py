"""From Kafka offsets to documents: pure Python behind ports, without Dagster and vendor clients."""
