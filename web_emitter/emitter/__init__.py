"""The emitter library: publishes one event per access. Imports only it and `contract.py`."""
