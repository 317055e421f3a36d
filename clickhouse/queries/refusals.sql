-- How many events of a span were refused, and how many were repeats of counted ones? (every org when none is named)
-- Repeats belong to the time of their event; refusals, which may have no readable time, to when they were received.
SELECT
    countIf(kind = 'duplicate') AS duplicates,
    countIf(kind = 'conflict') AS conflicts,
    (
        SELECT count()
        FROM rejected_rows FINAL
        WHERE ({org:String} = '' OR org = {org:String})
            AND received_at >= fromUnixTimestamp64Micro({start_us:Int64}, 'UTC')
            AND received_at < fromUnixTimestamp64Micro({end_us:Int64}, 'UTC')
            AND reason != 'conflict'
    ) AS rejected
FROM duplicates_rows FINAL
WHERE ({org:String} = '' OR org = {org:String})
    AND time >= fromUnixTimestamp64Micro({start_us:Int64}, 'UTC')
    AND time < fromUnixTimestamp64Micro({end_us:Int64}, 'UTC')
ORDER BY duplicates
SETTINGS do_not_merge_across_partitions_select_final = 1
