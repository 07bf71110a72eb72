"""The real side of the engine's ports: one module per server. Each call to a server stands here."""
