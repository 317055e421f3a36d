-- Up to which offset of the raw log, and up to which block of the priced log, does the store hold facts?
SELECT
    log,
    partition,
    newest
FROM
(
    SELECT 'raw' AS log, partition, max(offset) AS newest
    FROM facts_rows
    WHERE topic = {topic:String}
    GROUP BY partition
    UNION ALL
    SELECT 'priced' AS log, block_partition AS partition, toInt64(max(block)) AS newest
    FROM facts_rows
    GROUP BY block_partition
)
ORDER BY log, partition
