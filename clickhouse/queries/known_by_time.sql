-- Which facts before a block have one of these identity hashes, looked for at the org and time of their repeats?
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
    AND org IN {orgs:Array(String)}
    AND time IN (SELECT arrayJoin(arrayMap(us -> fromUnixTimestamp64Micro(us, 'UTC'), {times_us:Array(Int64)})))
    AND identity_hash IN {hashes:Array(UInt64)}
ORDER BY block, partition, offset, `index`
