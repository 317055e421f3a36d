-- Which identities of one partition of usage.priced were counted before a block, within the dedupe horizon?
SELECT
    identity_hash
FROM facts_rows
WHERE block_partition = {block_partition:Int32}
    AND block < {before:UInt64}
    AND block >= {covered_from:UInt64}
    AND received_at >= fromUnixTimestamp64Micro({received_since_us:Int64}, 'UTC')
