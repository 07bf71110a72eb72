-- Orders of a shop: each with the id that MySQL has for its customer, and its sum as a number.
WITH slice AS (
    SELECT _partition_id, _partition_offset, _timestamp, _message, uuid, customer, euros
    FROM kafka_tests.shop."order"
    WHERE _partition_id = 0 AND _partition_offset >= 0 AND _partition_offset < 100
)
SELECT
    slice._timestamp AS "@timestamp",
    slice.uuid,
    slice.customer,
    slice.euros,
    TRY_CAST(slice.euros AS double) AS total,
    tests.test_id AS customer_id,
    slice._partition_id AS partition,
    slice._partition_offset AS "offset",
    slice._message AS message
FROM slice
LEFT JOIN my_tests.testing.tests ON tests.test_name = slice.customer
