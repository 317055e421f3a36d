-- Which repeats name a first record that was never counted? Their event would be lost.
-- Only repeats of blocks before the fence of their partition: the facts of these are all in the store.
SELECT
    org,
    source,
    id,
    topic,
    partition,
    offset,
    `index`
FROM duplicates_rows FINAL
WHERE ({org:String} = '' OR org = {org:String})
    AND block < transform(block_partition, {partitions:Array(Int32)}, {fences:Array(UInt64)}, toUInt64(0))
    AND cityHash64(org, source, id, first_topic, first_partition, first_offset, first_index) NOT IN
    (
        SELECT cityHash64(org, source, id, topic, partition, offset, `index`) AS fact
        FROM facts_rows
        WHERE ({org:String} = '' OR org = {org:String})
            AND fact IN
            (
                SELECT cityHash64(org, source, id, first_topic, first_partition, first_offset, first_index)
                FROM duplicates_rows
                WHERE ({org:String} = '' OR org = {org:String})
            )
    )
ORDER BY org, topic, partition, offset, `index`
LIMIT {limit:UInt64}
SETTINGS do_not_merge_across_partitions_select_final = 1
