-- Which facts before a block have one of these identity hashes, wherever they are?
SELECT
    identity_hash,
    org,
    source,
    id,
    topic,
    partition,
    offset,
    `index`,
    received_at,
    block,
    time,
    operation,
    project,
    api_key,
    environment,
    `user`,
    provider,
    model,
    variant,
    status,
    tags,
    meters,
    quantities
FROM facts_rows FINAL
WHERE block_partition = {block_partition:Int32}
    AND block < {before:UInt64}
    AND identity_hash IN {hashes:Array(UInt64)}
ORDER BY block, partition, offset, `index`
