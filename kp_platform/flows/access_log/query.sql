-- The access log, enriched: each event with the MySQL row and the Redis value of its name.
-- Paste it into the Trino CLI as it is: it reads the first 100 offsets of partition 0. The loader
-- repeats that branch for each partition of a slice, and lists the names in place of each
-- `IN (SELECT ...)` when reference data are large, else reads all. LEFT JOINs: no event is dropped.
WITH slice AS (
    SELECT _partition_id, _partition_offset, _timestamp, _message, uuid, uri, name
    FROM kafka_tests.analyze.action
    WHERE _partition_id = 0 AND _partition_offset >= 0 AND _partition_offset < 100
)
SELECT
    slice._timestamp AS "@timestamp",
    slice.uuid,
    slice.uri,
    slice.name,
    reference_keys.redis_key,
    reference_keys.redis_value,
    tests.test_id,
    tests.test_name,
    tests.created_at,
    slice._partition_id AS partition,
    slice._partition_offset AS "offset",
    slice._message AS message
FROM slice
LEFT JOIN (
    SELECT
        test_id,
        test_name,
        format_datetime(created_at AT TIME ZONE 'UTC', 'yyyy-MM-dd''T''HH:mm:ss''Z''') AS created_at
    FROM my_tests.testing.tests
    WHERE test_name IN (SELECT name FROM slice)
) AS tests ON tests.test_name = slice.name
LEFT JOIN (
    -- A SCAN of Redis may return a key twice, an empty value comes as NULL.
    SELECT redis_key, coalesce(arbitrary(redis_value), '') AS redis_value
    FROM red_tests.test.string
    WHERE redis_key IN (SELECT name FROM slice)
    GROUP BY redis_key
) AS reference_keys ON reference_keys.redis_key = slice.name
