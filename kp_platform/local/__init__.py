"""The servers of one machine: fetched, configured, kept alive and stopped by the `kp` command."""
