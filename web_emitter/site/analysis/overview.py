"""The rankings and the chart above the newest logs, as HTML.

Belongs here: whether they come from the platform's computations or from Elasticsearch's
aggregations. Does not belong here: reading either (`insights.py`, `logs.py`), bar geometry
(`chart.py`).
"""

import asyncio
import logging
from collections.abc import Awaitable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, TypeVar

from web_emitter.emitter.rate_limit import RateLimitedLogger
from web_emitter.site.analysis.chart import Chart
from web_emitter.site.analysis.insights import Insights, Popular, Ranking
from web_emitter.site.analysis.log_query import LogQuery
from web_emitter.site.analysis.logs import LogSearch, Summary
from web_emitter.site.rendering import duration, number
from web_emitter.site.responses import templates

T = TypeVar("T")

_omitted = RateLimitedLogger(logging.getLogger(__name__))


@dataclass(frozen=True, slots=True)
class Top:
    """The most frequent names and URIs; `basis` describes the logs that were counted."""

    heading: str
    basis: str
    names: tuple[Popular, ...]
    uris: tuple[Popular, ...]


async def overview(insights: Insights, logs: LogSearch) -> str:
    """Ranking and hourly chart of all logs as the platform computed them; a missing section is
    replaced by Elasticsearch's counts."""
    now, everything = datetime.now(UTC), LogQuery()
    ranking, hours = await asyncio.gather(
        optional(insights.ranking()), optional(insights.hours(now))
    )
    sections = {
        "top": ranking and _top_of_ranking(ranking, now),
        "chart": Chart.of_hours(hours, now) if hours else None,
    }
    if not all(sections.values()):  # in the first minute nothing has been computed
        counted = await _counted(logs, everything, now)
        sections = {name: section or counted[name] for name, section in sections.items()}
    return _rendered(everything, sections)


async def filtered_overview(logs: LogSearch, query: LogQuery, now: datetime) -> str:
    """Ranking and chart of the logs of a query, counted by Elasticsearch."""
    return _rendered(query, await _counted(logs, query, now))


async def optional(section: Awaitable[T]) -> T | None:
    """A section of the page that is left out when it fails, so that the logs are still shown."""
    try:
        return await section
    except Exception as error:
        _omitted.warning("a section of the analysis page is omitted: %r", error)
        return None


async def _counted(logs: LogSearch, query: LogQuery, now: datetime) -> dict[str, Any]:
    summary = await optional(logs.summary(query, now))
    if not summary or not summary.total:
        return {"top": None, "chart": None}
    return {
        "top": _top_of_summary(summary),
        "chart": Chart.of_counts(summary.counts, summary.start, summary.end, summary.step),
    }


def _rendered(query: LogQuery, sections: Mapping[str, Any]) -> str:
    """HTML that does not depend on the request, so that it can be cached."""
    if not any(sections.values()):
        return ""
    return templates.get_template("overview.html").render(query=query, **sections)


def _top_of_ranking(ranking: Ranking, now: datetime) -> Top:
    basis = (
        f"{number(ranking.events)} accesses in {duration(ranking.window)}, "
        f"counted {duration(now - ranking.computed_at)} ago"
    )
    return Top("Popular now", basis, ranking.names, ranking.uris)


def _top_of_summary(summary: Summary) -> Top:
    basis = f"{number(summary.total)} logs"
    if summary.sampled:
        basis += f", estimated from {number(summary.sampled)} of them"
    return Top("Most frequent", basis, summary.names, summary.uris)
