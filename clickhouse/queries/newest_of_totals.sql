-- When was the newest event of each org, by its totals, and which block wrote the latest of them?
SELECT
    org,
    toUnixTimestamp64Micro(max(newest_time)) AS newest,
    max(version) AS last_block
FROM totals_rows FINAL
WHERE block_partition = {block_partition:Int32}
    AND ({every_org:Bool} OR org IN {orgs:Array(String)})
GROUP BY org
ORDER BY org
