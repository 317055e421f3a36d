-- By how much did these blocks of a partition correct facts? In the order of the log, for one org or all, without events
-- before an instant.
SELECT
    org,
    time,
    source,
    id,
    project,
    api_key,
    `user`,
    operation,
    model,
    cost,
    pricing,
    old_cost,
    old_pricing,
    correction_block,
    corrected_at
FROM corrections_rows FINAL
WHERE block_partition = {block_partition:Int32}
    AND correction_block >= {first:UInt64}
    AND correction_block < {end:UInt64}
    AND ({org:String} = '' OR org = {org:String})
    AND time >= fromUnixTimestamp64Micro({since_us:Int64}, 'UTC')
ORDER BY correction_block, partition, offset, `index`, revision
SETTINGS do_not_merge_across_partitions_select_final = 1
