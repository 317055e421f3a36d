-- How many facts of one partition of usage.priced were counted before a block, and when was the newest received?
SELECT
    count() AS facts,
    toUnixTimestamp64Micro(max(received_at)) AS newest_received_us
FROM facts_rows
WHERE block_partition = {block_partition:Int32}
    AND block < {before:UInt64}
