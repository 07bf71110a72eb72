-- The ranking in Redis, in popularity order, joined with the MySQL row and the Redis value of each
-- name and with the latest event of each name and uri among the recent ones in Kafka.
-- The file can be pasted into the Trino CLI: it then searches the first 100 offsets of partition 0.
-- The platform repeats that branch for the last offsets of each partition.
WITH recent AS (
    SELECT _partition_id, _partition_offset, _timestamp, uuid, uri, name
    FROM kafka_tests.analyze.action
    WHERE _partition_id = 0 AND _partition_offset >= 0 AND _partition_offset < 100
),
latest AS (
    SELECT
        accessed.kind,
        accessed.key,
        max_by(
            CAST(
                ROW(recent.uri, recent.uuid, recent._timestamp)
                AS ROW(uri varchar, uuid varchar, accessed_at timestamp(3))
            ),
            ROW(recent._timestamp, recent._partition_id, recent._partition_offset)
        ) AS event
    FROM recent
    CROSS JOIN UNNEST(ARRAY['name', 'uri'], ARRAY[recent.name, recent.uri]) AS accessed(kind, key)
    -- Excludes dead letters: timestamps of another century, or no uuid.
    WHERE
        recent._timestamp >= TIMESTAMP '2000-01-01' AND recent._timestamp < TIMESTAMP '2100-01-01'
        AND regexp_like(recent.uuid, '^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$')
    GROUP BY accessed.kind, accessed.key
)
SELECT
    entries.kind,
    entries.rank,
    entries.key,
    entries.accesses,
    tests.test_id,
    tests.test_name,
    format_datetime(tests.created_at AT TIME ZONE 'UTC', 'yyyy-MM-dd''T''HH:mm:ss''Z''') AS created_at,
    reference_keys.redis_value,
    latest.event.uri AS last_uri,
    latest.event.uuid AS last_uuid,
    replace(CAST(latest.event.accessed_at AS varchar), ' ', 'T') || 'Z' AS last_accessed_at,
    entries.computed_at
FROM (
    -- The connector returns an empty value, the name of an anonymous visitor, as NULL.
    SELECT kind, rank, coalesce(key, '') AS key, accesses, computed_at
    FROM red_tests.access.ranking
) AS entries
LEFT JOIN my_tests.testing.tests ON entries.kind = 'name' AND tests.test_name = entries.key
LEFT JOIN (
    -- A SCAN of Redis may return a key twice.
    SELECT redis_key, coalesce(arbitrary(redis_value), '') AS redis_value
    FROM red_tests.test.string
    GROUP BY redis_key
) AS reference_keys ON entries.kind = 'name' AND reference_keys.redis_key = entries.key
LEFT JOIN latest ON latest.kind = entries.kind AND latest.key = entries.key
ORDER BY entries.kind, entries.rank
