"""Elasticsearch: the document store of the engine.

Belongs here: every call to Elasticsearch that the platform makes. Works on versions 8 and 9, also
on a minimal build without security, scripts or lifecycle management; so no `info()`.
"""

import functools
import json
import ssl
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from kp_platform.adapters.errors import Refusal, ServerDown, server_error
from kp_platform.engine.counting import Extent, Group, Where, iso
from kp_platform.engine.errors import BulkOverloaded, RequestTooLarge, SliceError
from kp_platform.engine.ports import MAPPINGS, Hit, ItemResult, Reach, Stored, Version
from kp_platform.settings import Settings

if TYPE_CHECKING:  # importing the client costs a second of CPU: only where it is used
    from elastic_transport import ObjectApiResponse
    from elasticsearch import Elasticsearch

_MOST_HITS = 10_000
_LONGEST_TERM = 32_766  # bytes, a limit of Lucene
# A bucket may hold a uri of 32 kB.
_GROUPS_PER_PAGE = 5_000
_CONDITIONS_PER_SEARCH = 500
# A count without the documents of an unavailable shard would be wrong.
_EXACT: dict[str, Any] = {"size": 0, "allow_partial_search_results": False}
_REFUSALS = (
    Refusal(
        "authenticationexception(401",
        "KP_ELASTICSEARCH_URL, KP_ELASTICSEARCH_API_KEY",
        "refuses the user",
    ),
    Refusal("security_exception", "KP_ELASTICSEARCH_URL", "denies this operation to the user"),
)
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
# How long a snapshot lives after its last read.
_KEEP_ALIVE = "5m"


@functools.lru_cache
def _client(url: str, timeout_seconds: float, ca_file: str, api_key: str) -> "Elasticsearch":
    """One connection pool for each address and process. A request that timed out is not retried:
    it would block four times as long."""
    from elasticsearch import Elasticsearch

    options: dict[str, Any] = {"api_key": api_key} if api_key else {}
    if url.startswith("https:"):
        options["ssl_context"] = ssl.create_default_context(cafile=ca_file or None)
    return Elasticsearch(url, request_timeout=timeout_seconds, **options)


@dataclass(frozen=True)
class ElasticsearchAdapter:
    """The cluster that stores enriched logs, positions, dead letters and gaps. Waits at most
    `timeout_seconds` for an answer, and `bulk_timeout_seconds` for a bulk answer."""

    settings: Settings
    timeout_seconds: float = 10.0
    bulk_timeout_seconds: float = 60.0

    @property
    def address(self) -> str:
        return self.settings.elasticsearch_url

    def client(self) -> "Elasticsearch":
        """The official client, for reads without a method here."""
        api_key = self.settings.elasticsearch_api_key.get_secret_value()
        return _client(self.address, self.timeout_seconds, self.settings.ca_file, api_key)

    def probe(self) -> None:
        """Raises ServerDown unless the cluster is green or yellow."""
        with self._answers():
            health = self.client().options(request_timeout=5, max_retries=0).cluster.health()
        if health["status"] == "red":
            raise self._down("cluster health is red", "is not ready")

    def bulk(self, lines: bytes) -> Sequence[ItemResult]:
        """See `Documents.bulk`. Requests only status and error of each item."""
        answer = self._bulk(lines, "items.*.status,items.*.error")
        return [_item_result(*item.values()) for item in answer["items"]]

    def bulk_all(self, lines: bytes) -> bool:
        """See `Documents.bulk_all`."""
        return not self._bulk(lines, "errors")["errors"]

    def _bulk(self, lines: bytes, filter_path: str) -> "ObjectApiResponse[Any]":
        from elastic_transport import ApiError

        with self._answers():
            try:
                return self._patient().bulk(
                    operations=cast(Any, lines),  # bytes are ten times cheaper than dicts
                    filter_path=filter_path,
                )
            except ApiError as error:
                if error.meta.status in (429, 503):
                    raise BulkOverloaded(f"bulk request refused: {error}") from error
                too_large = error.meta.status == 413
                raise (RequestTooLarge if too_large else SliceError)(
                    f"bulk request of {len(lines)} bytes refused: {error}"
                ) from error

    def get(self, keys: Sequence[tuple[str, str]]) -> dict[tuple[str, str], Stored]:
        """See `Documents.get`."""
        if not keys:
            return {}
        docs = [{"_index": index, "_id": identity} for index, identity in keys]
        with self._answers():
            answer = self.client().mget(docs=docs)
        found: dict[tuple[str, str], Stored] = {}
        for key, doc in zip(
            keys, answer["docs"], strict=True
        ):  # by position: a document names its concrete index
            error = doc.get("error", {}).get("type")
            if error not in (None, "index_not_found_exception"):
                raise self._down(f"{error} for {doc['_index']}/{doc['_id']}", "cannot read a shard")
            if doc.get("found"):
                found[key] = _stored(doc)
        return found

    def find(self, index: str, field: str, value: str) -> list[Stored]:
        """See `Documents.find`."""
        with self._answers():
            answer = self.client().search(
                index=index,
                query={"term": {field: value}},
                size=_MOST_HITS,
                seq_no_primary_term=True,
                ignore_unavailable=True,
            )
        return [_stored(hit) for hit in answer["hits"]["hits"]]

    def count(self, index: str) -> int:
        """Searchable documents of an index or alias; 0 when it does not exist."""
        with self._answers():
            return int(self.client().count(index=index, ignore_unavailable=True)["count"])

    def refresh(self, index: str) -> None:
        """See `Documents.refresh`."""
        with self._answers():
            self._patient().indices.refresh(index=index, ignore_unavailable=True)

    def snapshot(self, index: str) -> AbstractContextManager["ElasticsearchSnapshot"]:
        """See `DocumentReader.snapshot`: a point in time."""
        return self._point_in_time(index)

    @contextmanager
    def _point_in_time(
        self, index: str, preference: str | None = None
    ) -> Iterator["ElasticsearchSnapshot"]:
        client = self._patient()
        with self._answers():
            opened = client.open_point_in_time(
                index=index,
                keep_alive=_KEEP_ALIVE,
                preference=preference,
                ignore_unavailable=True,
            )
            try:
                yield ElasticsearchSnapshot(client, opened["id"])
            finally:
                client.close_point_in_time(id=opened["id"])

    def counts(self, index: str, conditions: Sequence[Where]) -> list[int]:
        """See `DocumentReader.counts`. Lucene counts a range of a sorted field unread."""
        found: list[int] = []
        for start in range(0, len(conditions), _CONDITIONS_PER_SEARCH):
            filters = [_query(each) for each in conditions[start : start + _CONDITIONS_PER_SEARCH]]
            with self._answers():
                answer = self._patient().search(
                    index=index,
                    **_EXACT,
                    track_total_hits=False,
                    ignore_unavailable=True,
                    aggs={"counts": {"filters": {"filters": filters, "keyed": False}}},
                )
            buckets = answer.get("aggregations", {}).get("counts", {}).get("buckets")
            found += [bucket["doc_count"] for bucket in buckets] if buckets else [0] * len(filters)
        return found

    def hours(self, index: str, field: str, where: Where) -> list[datetime]:
        """See `DocumentReader.hours`."""
        source = {"date_histogram": {"field": field, "fixed_interval": "1h"}}
        options = {"index": index, "ignore_unavailable": True}
        with self._answers():
            groups = list(_composite(self._patient(), options, [source], where))
        return [_EPOCH + timedelta(milliseconds=hour) for (hour,), _ in groups]

    def index_ids(self, index: str) -> dict[str, str]:
        """See `IndexAdmin.index_ids`."""
        with self._answers():
            answer = self.client().indices.get(
                index=index, features=["aliases", "settings"], ignore_unavailable=True
            )
        return {
            _name(concrete, each, index): each["settings"]["index"]["uuid"]
            for concrete, each in answer.items()
        }

    def make_index(self, name: str, template: Path) -> None:
        """See `IndexAdmin.make_index`."""
        body = json.loads(template.read_text())["template"]
        with self._answers():
            self.client().indices.create(
                index=name, settings=body["settings"], mappings=body["mappings"]
            )

    def delete_index(self, name: str) -> None:
        """See `IndexAdmin.delete_index`."""
        indices = self.client().indices
        with self._answers():
            for concrete in indices.get(index=name, features="aliases", ignore_unavailable=True):
                indices.delete(index=concrete, ignore_unavailable=True)

    def sizes(self, index: str) -> dict[str, tuple[int, int]]:
        """See `IndexAdmin.sizes`."""
        indices = self.client().indices
        with self._answers():
            existing = indices.get(index=index, features="aliases", ignore_unavailable=True)
            if not existing.body:
                return {}
            found = indices.stats(index=index, metric="docs,store")["indices"]
        return {
            _name(concrete, each, index): (
                found[concrete]["primaries"]["docs"]["count"],
                found[concrete]["total"]["store"]["size_in_bytes"],
            )
            for concrete, each in existing.items()
            if concrete in found
        }

    def behind_no_alias(self, prefix: str) -> dict[str, datetime]:
        """See `IndexAdmin.behind_no_alias`."""
        with self._answers():
            found = self.client().indices.get(
                index=f"{prefix}*", features=["aliases", "settings"], ignore_unavailable=True
            )
        return {
            name: _EPOCH + timedelta(milliseconds=int(each["settings"]["index"]["creation_date"]))
            for name, each in found.items()
            if not each["aliases"]
        }

    def checkpoints(self, index: str) -> dict[int, int]:
        """See `IndexAdmin.checkpoints`: those of the primary shards. No write up to a
        checkpoint is in progress."""
        with self._answers():
            answer = self.client().indices.stats(index=index, metric="docs", level="shards")
        [found] = answer["indices"].values()
        return {
            int(shard): copy["seq_no"]["local_checkpoint"]
            for shard, copies in found["shards"].items()
            for copy in copies
            if copy["routing"]["primary"]
        }

    def written_since(
        self, index: str, checkpoints: Mapping[int, int], size: int
    ) -> Iterator[list[Hit]]:
        """See `IndexAdmin.written_since`: a point in time of each shard, because each numbers
        its own writes."""
        for shard in self.checkpoints(index):
            query = {"range": {"_seq_no": {"gt": checkpoints.get(shard, -1)}}}
            with self._point_in_time(index, f"_shards:{shard}") as snapshot:
                yield from snapshot.pages(query=query, size=size, sort=["_shard_doc"])

    def block_writes(self, index: str, blocked: bool) -> None:
        """See `IndexAdmin.block_writes`."""
        indices = self._patient().indices
        with self._answers():
            if blocked:
                indices.add_block(index=index, block="write")
            else:
                indices.put_settings(index=index, settings={"index.blocks.write": None})

    def swap_alias(self, name: str, new: str, alias: str, index_id: str | None) -> None:
        """See `IndexAdmin.swap_alias`. An alias cannot have the name of an index, so the request
        fails as a whole when another writer has created one."""
        indices = self._patient().indices
        with self._answers():
            existing = indices.get(index=name, features="settings", ignore_unavailable=True)
            ids = {old: each["settings"]["index"]["uuid"] for old, each in existing.items()}
            if [*ids.values()] != ([] if index_id is None else [index_id]):
                raise SliceError(f"another index than before goes by the name {name}")
            actions: list[dict[str, Any]] = [{"remove_index": {"index": old}} for old in ids]
            actions += [{"add": {"index": new, "alias": each}} for each in (name, alias)]
            indices.update_aliases(actions=actions)

    def ensure_index(self, name: str, declaration: Path | None = None) -> None:
        """See `Documents.ensure_index`. A file with `index_patterns` is a template, which is
        put each time: it applies to indices of later days."""
        body: dict[str, Any] = json.loads((declaration or MAPPINGS / f"{name}.json").read_text())
        with self._answers():
            if "index_patterns" in body:
                self._put_template(name, body)
            else:
                self._create_index(name, body)

    def _put_template(self, name: str, body: dict[str, Any]) -> None:
        """Put a template and add missing fields to the existing daily indices. Existing fields can
        only be changed by a replay into a new index."""
        indices = self.client().indices
        indices.put_index_template(name=name, **_keywords(body))
        if indices.exists_alias(name=name):
            fields = body["template"]["mappings"]["properties"]
            for day, existing in indices.get_mapping(index=name).items():
                known = existing["mappings"].get("properties", {})
                if added := {each: fields[each] for each in fields.keys() - known.keys()}:
                    indices.put_mapping(index=day, properties=added)

    def _patient(self) -> "Elasticsearch":
        """The client with the timeout for requests that read or write much."""
        return self.client().options(request_timeout=self.bulk_timeout_seconds)

    def _create_index(self, name: str, body: dict[str, Any]) -> None:
        from elasticsearch import BadRequestError

        indices = self.client().indices
        if indices.exists(index=name):
            self._add_fields(name, body["mappings"]["properties"])
            return
        try:
            indices.create(index=name, **body)
        except BadRequestError as error:
            if error.error != "resource_already_exists_exception":
                raise

    def _add_fields(self, name: str, fields: dict[str, Any]) -> None:
        """Only when one is new: blocked metadata rejects even an unchanged mapping."""
        indices = self.client().indices
        [existing] = indices.get_mapping(index=name).values()
        if fields.keys() - existing["mappings"].get("properties", {}).keys():
            indices.put_mapping(index=name, properties=fields)

    @contextmanager
    def _answers(self) -> Iterator[None]:
        from elastic_transport import ApiError, TlsError, TransportError

        try:
            yield
        except ApiError as error:
            raise self._down(error, "rejects a request") from error
        except TlsError as error:  # only its message has the cause
            raise self._down(error.message) from error
        except TransportError as error:
            raise self._down(error) from error

    def _down(self, cause: object, problem: str = "does not answer") -> ServerDown:
        return server_error(
            "Elasticsearch", self.address, "KP_ELASTICSEARCH_URL", cause, _REFUSALS, problem
        )


@dataclass(frozen=True, slots=True)
class ElasticsearchSnapshot:
    """A point in time; see `kp_platform.engine.ports.Snapshot`."""

    client: "Elasticsearch"
    id: str

    def differing(
        self, field: str, value: str, expected: Mapping[str, Any], size: int
    ) -> Iterator[list[Hit]]:
        same = {"bool": {"filter": [_equal(name, each) for name, each in expected.items()]}}
        query = {"bool": {"filter": _equal(field, value), "must_not": same}}
        return self.pages(query=query, size=size, sort=["_shard_doc"])

    def latest(self, where: Where, size: int, without: Sequence[str] = ()) -> Iterator[list[Hit]]:
        sort = [{where.field: "desc"}, {"_shard_doc": "asc"}]
        return self.pages(query=_query(where), size=size, sort=sort, source_excludes=list(without))

    def reach(self, where: Where, below: Mapping[int, int]) -> dict[int, Reach]:
        """See `Snapshot.reach`: one search with a filter for each partition."""
        answer = self.client.search(
            pit={"id": self.id, "keep_alive": _KEEP_ALIVE},
            **_EXACT,
            query=_query(where),
            track_total_hits=False,
            aggs={
                str(partition): {
                    "filter": {"term": {"partition": partition}},
                    "aggs": {
                        "first": {"min": {"field": "offset"}},
                        "last": {"max": {"field": "offset"}},
                        "below": {"filter": {"range": {"offset": {"lt": offset}}}},
                    },
                }
                for partition, offset in below.items()
            },
        )
        found = answer.get("aggregations", {})
        return {
            int(partition): Reach(
                int(each["first"]["value"]), int(each["last"]["value"]), each["below"]["doc_count"]
            )
            for partition, each in found.items()
            if each["doc_count"]
        }

    def pages(self, **search: Any) -> Iterator[list[Hit]]:
        """The hits of a search, page by page."""
        after: dict[str, Any] = {}
        while True:
            answer = self.client.search(
                pit={"id": self.id, "keep_alive": _KEEP_ALIVE},
                allow_partial_search_results=False,
                seq_no_primary_term=True,
                track_total_hits=False,
                **search,
                **after,
            )
            hits = answer["hits"]["hits"]
            if not hits:
                return
            yield [Hit(hit["_index"], hit["_id"], _stored(hit)) for hit in hits]
            after = {"search_after": hits[-1]["sort"]}

    def groups(self, fields: Sequence[str], where: Where) -> Iterator[Group]:
        sources = [{"terms": {"field": field, "missing_bucket": True}} for field in fields]
        options = {"pit": {"id": self.id, "keep_alive": _KEEP_ALIVE}}
        return _composite(self.client, options, sources, where)

    def extent(self, where: Where) -> Extent:
        answer = self.client.search(
            pit={"id": self.id, "keep_alive": _KEEP_ALIVE},
            **_EXACT,
            query=_query(where),
            track_total_hits=True,
            aggs={"oldest": {"min": {"field": where.field}}},
        )
        oldest = answer["aggregations"]["oldest"]["value"] if "aggregations" in answer else None
        return Extent(
            answer["hits"]["total"]["value"],
            None if oldest is None else _EPOCH + timedelta(milliseconds=int(oldest)),
        )


def _composite(
    client: "Elasticsearch",
    options: dict[str, Any],
    sources: Sequence[dict[str, Any]],
    where: Where,
) -> Iterator[Group]:
    """Every bucket of a composite aggregation, page by page, with exact counts."""
    names = [str(number) for number in range(len(sources))]
    composite: dict[str, Any] = {
        "size": _GROUPS_PER_PAGE,
        "sources": [{name: source} for name, source in zip(names, sources, strict=True)],
    }
    while True:
        answer = client.search(
            **options,
            **_EXACT,
            query=_query(where),
            track_total_hits=False,
            aggs={"groups": {"composite": composite}},
        )
        groups = answer.get("aggregations", {}).get("groups", {"buckets": []})
        for bucket in groups["buckets"]:
            yield tuple(bucket["key"][name] for name in names), bucket["doc_count"]
        if "after_key" not in groups:
            return
        composite["after"] = groups["after_key"]


def _query(where: Where) -> dict[str, Any]:
    window = {"gte": iso(where.window.start), "lt": iso(where.window.end)}
    equal = [{"term": {field: value}} for field, value in where.equal]
    absent = [_equal(field, None) for field in where.absent]
    return {"bool": {"filter": [{"range": {where.field: window}}, *equal, *absent]}}


def _equal(field: str, value: Any) -> dict[str, Any]:
    if value is None:
        return {"bool": {"must_not": {"exists": {"field": field}}}}
    if isinstance(value, str) and len(value.encode()) > _LONGEST_TERM:
        return {"match_none": {}}  # no keyword is that long, and searching for it is an error
    return {"term": {field: value}}


def _name(concrete: str, index: dict[str, Any], alias: str) -> str:
    """The name of an index behind an alias: its own, or that of the index it replaced."""
    return next((name for name in index["aliases"] if name.startswith(f"{alias}-")), concrete)


def _stored(hit: dict[str, Any]) -> Stored:
    return Stored(hit["_source"], Version(hit["_seq_no"], hit["_primary_term"]))


_plain_result = functools.cache(ItemResult)  # shared: most documents are created


def _item_result(item: dict[str, Any]) -> ItemResult:
    error = item.get("error")
    if error is None:
        return _plain_result(item["status"])
    return ItemResult(item["status"], error["type"], error.get("reason") or "")


def _keywords(body: dict[str, Any]) -> dict[str, Any]:
    """A template's JSON as keyword arguments: the client omits the underscore of `_meta`."""
    return {name.lstrip("_"): value for name, value in body.items()}
