-- What was in force before a block?
SELECT body
FROM control_rows
WHERE block_partition = {block_partition:Int32}
    AND block < {before:UInt64}
ORDER BY block DESC
LIMIT 1
