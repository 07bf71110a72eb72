"""The servers of one machine: downloaded, configured, supervised and stopped by `kp`."""
