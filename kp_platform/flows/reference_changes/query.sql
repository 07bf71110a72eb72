-- Changes of reference data: each message with the MySQL row and the Redis value that its key has
-- now. The joins are those of access_log.sql, on the key instead of the name; a test holds them
-- the same.
-- Paste it into the Trino CLI as it is: it reads the first 100 offsets of partition 0. The pipeline
-- repeats that branch for each partition of a slice, and lists the keys in place of each
-- `IN (SELECT ...)` when reference data are large, else reads all.
WITH slice AS (
    SELECT _partition_id, _partition_offset, _timestamp, _message, source, key
    FROM kafka_tests.reference.changed
    WHERE _partition_id = 0 AND _partition_offset >= 0 AND _partition_offset < 100
)
SELECT
    slice._timestamp AS "@timestamp",
    slice.source,
    slice.key,
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
    WHERE test_name IN (SELECT key FROM slice)
) AS tests ON tests.test_name = slice.key
LEFT JOIN (
    -- A SCAN of Redis may return a key twice, an empty value comes as NULL.
    SELECT redis_key, coalesce(arbitrary(redis_value), '') AS redis_value
    FROM red_tests.test.string
    WHERE redis_key IN (SELECT key FROM slice)
    GROUP BY redis_key
) AS reference_keys ON reference_keys.redis_key = slice.key
