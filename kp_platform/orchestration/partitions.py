"""Assets with partitions, of which a backfill is one run.

Belongs here: the decorator. Does not belong here: the partitions of an asset.
"""

import warnings
from collections.abc import Callable
from typing import Any

import dagster as dg


def partitioned_asset(**options: Any) -> Callable[[Callable[..., Any]], dg.AssetsDefinition]:
    """`dg.asset` with one run per backfill: a run per partition would cost four CPU-seconds
    each."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", dg.BetaWarning)  # of the parameter `backfill_policy`
        policy = dg.BackfillPolicy.single_run()
        decorator: Callable[[Callable[..., Any]], dg.AssetsDefinition] = dg.asset(
            backfill_policy=policy, **options
        )
    return decorator
