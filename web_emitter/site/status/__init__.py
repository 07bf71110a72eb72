"""The status of the emitter and of the indexer: health checks, freshness, metrics."""
