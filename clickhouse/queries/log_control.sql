-- What did a control block put into force?
SELECT
    body,
    toUnixTimestamp64Milli(recorded_at) AS recorded_ms
FROM control_rows
WHERE block_partition = {block_partition:Int32}
    AND block = {block:UInt64}
LIMIT 1
