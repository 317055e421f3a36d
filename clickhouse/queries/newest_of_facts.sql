-- When was the newest event of each of these orgs before a block?
SELECT
    org,
    toUnixTimestamp64Micro(max(time)) AS newest
FROM facts_rows
WHERE block_partition = {block_partition:Int32}
    AND block < {before:UInt64}
    AND org IN {orgs:Array(String)}
GROUP BY org
ORDER BY org
