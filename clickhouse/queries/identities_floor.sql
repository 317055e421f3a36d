-- From which block on do the newest facts of one partition, up to a limit, stand?
SELECT
    min(block) + 1 AS covered_from
FROM
(
    SELECT block
    FROM facts_rows
    WHERE block_partition = {block_partition:Int32}
        AND block < {before:UInt64}
    ORDER BY block DESC
    LIMIT {limit:UInt64}
)
