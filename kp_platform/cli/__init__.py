"""The `kp` command: one module per group of commands."""
