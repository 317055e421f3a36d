-- What do the facts with these identity hashes cost as of a block, looked for at the orgs and times of their corrections?
-- One row per fact (revision 0) and per correction of it.
SELECT
    identity_hash,
    org,
    source,
    id,
    time,
    received_at,
    project,
    api_key,
    environment,
    `user`,
    operation,
    provider,
    model,
    variant,
    status,
    tags,
    topic,
    partition,
    offset,
    `index`,
    of,
    block_partition,
    block,
    recorded_at,
    cost,
    pricing,
    lines,
    quantities,
    costs,
    toUInt32(0) AS revision,
    '' AS run
FROM facts_rows FINAL
WHERE block_partition = {block_partition:Int32}
    AND block < {before:UInt64}
    AND org IN {orgs:Array(String)}
    AND time IN (SELECT arrayJoin(arrayMap(us -> fromUnixTimestamp64Micro(us, 'UTC'), {times_us:Array(Int64)})))
    AND identity_hash IN {hashes:Array(UInt64)}
UNION ALL
SELECT
    identity_hash,
    org,
    source,
    id,
    time,
    received_at,
    project,
    api_key,
    environment,
    `user`,
    operation,
    provider,
    model,
    variant,
    status,
    tags,
    topic,
    partition,
    offset,
    `index`,
    of,
    block_partition,
    block,
    recorded_at,
    cost,
    pricing,
    lines,
    quantities,
    costs,
    revision,
    run
FROM corrections_rows FINAL
WHERE block_partition = {block_partition:Int32}
    AND correction_block < {before:UInt64}
    AND org IN {orgs:Array(String)}
    AND time IN (SELECT arrayJoin(arrayMap(us -> fromUnixTimestamp64Micro(us, 'UTC'), {times_us:Array(Int64)})))
    AND identity_hash IN {hashes:Array(UInt64)}
