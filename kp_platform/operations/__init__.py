"""What operators do with a running platform: replay, index swap, dead-letter retry, retention."""
