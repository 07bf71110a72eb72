-- The full text: each note as it was registered, and how long it is without the blanks around it.
-- Paste it into the Trino CLI as it is: it reads the first 100 offsets of partition 0. The loader
-- repeats that branch for each partition of a slice.
WITH slice AS (
    SELECT _partition_id, _partition_offset, _timestamp, _message, uuid, text
    FROM kafka_tests.fulltext.register
    WHERE _partition_id = 0 AND _partition_offset >= 0 AND _partition_offset < 100
)
SELECT
    slice._timestamp AS "@timestamp",
    slice.uuid,
    slice.text,
    length(trim(slice.text)) AS "length",
    slice._partition_id AS partition,
    slice._partition_offset AS "offset",
    slice._message AS message
FROM slice
