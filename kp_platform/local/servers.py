"""The services of a local stack in the order of their start, and the secrets they share.

Belongs here: the order. Does not belong here: what one service is (a module each: `kafka.py`,
`mysql.py`, `redis.py`, `elasticsearch.py`, `trino.py`, `dagster.py`, `emitter.py`).
"""

from kp_platform.local import dagster, elasticsearch, emitter, kafka, mysql, redis, trino
from kp_platform.local.service import Service
from kp_platform.local.settings import LocalSettings
from kp_platform.local.supervisor import STACK_VARIABLE
from kp_platform.settings import environment


def services(settings: LocalSettings) -> tuple[Service, ...]:
    """All services in the order of their start. Raises StackError when settings contradict."""
    return (
        *kafka.services(settings),
        mysql.service(settings),
        *redis.services(settings),
        elasticsearch.service(settings),
        *trino.services(settings),
        *dagster.services(settings),
        emitter.service(settings),
    )


def stack_environment(settings: LocalSettings) -> dict[str, str]:
    """The variables of every process of the stack, on top of the caller's environment.

    Secrets reach the services this way, so neither a file nor an argument list has them.
    """
    return {
        **environment(settings, secrets=True),
        **kafka.secrets(settings),
        **mysql.secrets(settings),
        **redis.secrets(settings),
        **trino.secrets(settings),
        **({"JDK_JAVA_OPTIONS": settings.jvm_options} if settings.jvm_options else {}),
        STACK_VARIABLE: str(settings.home),
    }
