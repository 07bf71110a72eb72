"""Access events from Kafka, joined with MySQL and Redis by Trino, indexed in Elasticsearch."""
