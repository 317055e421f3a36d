-- Which events were refused or in conflict, newest first, a page that begins after a given row?
-- (every org when none is named, also those whose org could not be read)
SELECT
    reason,
    detail,
    topic,
    partition,
    offset,
    `index`,
    toUnixTimestamp64Micro(received_at) AS received_us,
    org,
    id,
    payload_sha256,
    payload_prefix
FROM rejected_rows FINAL
WHERE ({org:String} = '' OR org = {org:String})
    AND received_at >= fromUnixTimestamp64Micro({start_us:Int64}, 'UTC')
    AND received_at < fromUnixTimestamp64Micro({end_us:Int64}, 'UTC')
    AND (toUnixTimestamp64Micro(received_at), topic, partition, offset, `index`)
        < ({after_us:Int64}, {after_topic:String}, {after_partition:Int32}, {after_offset:Int64}, {after_index:Int32})
ORDER BY received_at DESC, topic DESC, partition DESC, offset DESC, `index` DESC
LIMIT {limit:UInt64}
SETTINGS do_not_merge_across_partitions_select_final = 1
