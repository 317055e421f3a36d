-- Which hours of these orgs have totals that a block at or after this one wrote?
SELECT DISTINCT
    org,
    toUnixTimestamp(hour) AS hour_seconds
FROM totals_rows FINAL
WHERE block_partition = {block_partition:Int32}
    AND version >= {before:UInt64}
    AND org IN {orgs:Array(String)}
    AND hour >= toDateTime({from_seconds:UInt32}, 'UTC')
    AND hour <= toDateTime({to_seconds:UInt32}, 'UTC')
ORDER BY org, hour_seconds
