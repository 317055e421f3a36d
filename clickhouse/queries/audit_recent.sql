-- Of which hours of which orgs were facts or totals written since some blocks, and how many rows do they have about?
SELECT
    org,
    toUnixTimestamp(hour) AS start,
    max(rows) AS rows
FROM
(
    SELECT org, toStartOfHour(time) AS hour, count() AS rows
    FROM facts_rows
    WHERE block >= arrayMin({since:Array(UInt64)})
        AND block >= transform(block_partition, {partitions:Array(Int32)}, {since:Array(UInt64)}, toUInt64(0))
    GROUP BY org, hour
    UNION ALL
    SELECT org, hour, sum(requests) + count() AS rows
    FROM totals_rows
    GROUP BY org, hour
    HAVING countIf(version >= transform(block_partition, {partitions:Array(Int32)}, {since:Array(UInt64)}, toUInt64(0))) > 0
)
GROUP BY org, start
ORDER BY org, start
