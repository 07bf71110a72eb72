"""The emitter library: publishes one event per access. It imports nothing of the site."""
