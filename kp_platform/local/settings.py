"""The settings of the local stack, on top of the platform's.

Belongs here: ports, folders and users that only `kp up` needs. Does not belong here: what the
platform reads (`kp_platform/settings.py`).
"""

from kp_platform.settings import Settings


class LocalSettings(Settings):
    """The effective settings of one local stack."""
