"""The name of a visitor: the identify hook and its safe call.

Belongs here: the demo's hook, loading the hook of `KP_EMITTER_IDENTIFY`, the fallback "anonymous".
Does not belong here: authentication; a hook reads its result from the ASGI scope.
"""

import importlib
import inspect
import logging
import random
from collections import Counter
from collections.abc import Callable

from web_emitter.emitter.asgi import Scope
from web_emitter.emitter.events import name_defect
from web_emitter.emitter.rate_limit import RateLimitedLogger

ANONYMOUS = "anonymous"
DEMO_NAMES = ("presto", "kafka", "laravel", "elasticsearch")

IdentifyHook = Callable[[Scope], str]


def random_demo_name(scope: Scope) -> str:
    """The demo's visitor: at random one of the four names that have reference data."""
    return random.choice(DEMO_NAMES)


def load_hook(path: str) -> IdentifyHook:
    """The function that `module:function` names. Raises ValueError when it does not exist."""
    module_name, _, name = path.partition(":")
    try:
        hook = getattr(importlib.import_module(module_name), name)
    except (ImportError, AttributeError) as error:
        raise ValueError(f"KP_EMITTER_IDENTIFY={path}: {error}") from error
    if not callable(hook) or inspect.iscoroutinefunction(hook):
        raise ValueError(f"KP_EMITTER_IDENTIFY={path} is not a plain function")
    return hook  # type: ignore[no-any-return]  # its result is checked at each call


class Identity:
    """Calls the hook and returns a valid name, also when the hook fails.

    `anonymous` counts the fallbacks by reason: raised, not_text, empty, too_long, not_unicode.
    """

    def __init__(self, hook: IdentifyHook, logger: logging.Logger) -> None:
        self._hook = hook
        self._logger = RateLimitedLogger(logger)
        self.anonymous: Counter[str] = Counter()

    def __call__(self, scope: Scope) -> str:
        try:
            name = self._hook(scope)
        except Exception as error:
            return self._fall_back("raised", type(error).__name__)
        defect = name_defect(name)
        return name if defect is None else self._fall_back(defect)

    def _fall_back(self, reason: str, detail: str = "") -> str:
        self.anonymous[reason] += 1
        self._logger.warning("the identify hook returned no valid name: %s %s", reason, detail)
        return ANONYMOUS
