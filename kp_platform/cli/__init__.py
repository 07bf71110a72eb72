"""The `kp` command, one module for each group of commands."""
