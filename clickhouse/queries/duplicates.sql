-- Which repeats of counted events came in for one org, newest event first, a page that begins after a given row?
SELECT
    kind,
    org,
    source,
    id,
    toUnixTimestamp64Micro(time) AS time_us,
    topic,
    partition,
    offset,
    `index`,
    first_topic,
    first_partition,
    first_offset,
    first_index
FROM duplicates_rows FINAL
WHERE org = {org:String}
    AND time >= fromUnixTimestamp64Micro({start_us:Int64}, 'UTC')
    AND time < fromUnixTimestamp64Micro({end_us:Int64}, 'UTC')
    AND (toUnixTimestamp64Micro(time), topic, partition, offset, `index`)
        < ({after_us:Int64}, {after_topic:String}, {after_partition:Int32}, {after_offset:Int64}, {after_index:Int32})
ORDER BY time DESC, topic DESC, partition DESC, offset DESC, `index` DESC
LIMIT {limit:UInt64}
SETTINGS do_not_merge_across_partitions_select_final = 1
