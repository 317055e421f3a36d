-- Which facts did these blocks of a partition leave? In the order of the log, for one org or all, without events before
-- an instant.
SELECT
    partition,
    offset,
    `index`,
    of,
    received_at,
    org,
    source,
    id,
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
    cost,
    pricing,
    topic,
    block_partition,
    block,
    recorded_at,
    lines,
    quantities,
    costs
FROM facts_rows FINAL
WHERE block_partition = {block_partition:Int32}
    AND block >= {first:UInt64}
    AND block < {end:UInt64}
    AND ({org:String} = '' OR org = {org:String})
    AND time >= fromUnixTimestamp64Micro({since_us:Int64}, 'UTC')
ORDER BY block, partition, offset, `index`
SETTINGS do_not_merge_across_partitions_select_final = 1
