"""The pages of the web emitter as assets, where the lineage ends.

Belongs here: which assets a page shows. Does not belong here: the pages (`web_emitter/`), which
do not depend on Dagster.
"""

import dagster as dg

from kp_platform.flows.builtin import ACCESS_LOG, FULL_TEXT
from kp_platform.orchestration import kpi, ranking
from kp_platform.orchestration.asset_keys import GROUP, flow_key


def page_assets() -> list[dg.AssetSpec]:
    """The pages that show what the flows write."""
    return [
        _page(
            "analysis",
            "search the enriched logs, see the ranking and the figures of each hour",
            [flow_key(ACCESS_LOG), ranking.KEY, kpi.KEY],
        ),
        _page("fulltext", "write notes, and search them", [flow_key(FULL_TEXT)]),
    ]


def _page(path: str, purpose: str, shown: list[dg.AssetKey]) -> dg.AssetSpec:
    return dg.AssetSpec(
        key=dg.AssetKey(["web", path]),
        deps=shown,
        kinds={"starlette"},
        group_name=GROUP,
        description=f"Page `/{path}` of the web emitter: {purpose}.",
    )
