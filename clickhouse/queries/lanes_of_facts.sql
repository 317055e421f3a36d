-- What does each lane sum up to, over any span of event time? (every org when none is named)
SELECT
    toString({by:Identifier}) AS lane,
    count() AS requests,
    countIf(status = 'ok') AS ok,
    countIf(status != 'ok') AS failed,
    countIf(pricing = 'unpriced') AS unpriced,
    sum(ifNull(stored.cost, 0)) AS cost,
    sumIf(ifNull(stored.cost, 0), status != 'ok') AS failed_cost,
    toUnixTimestamp64Micro(max(time)) AS newest_us
FROM facts AS stored
WHERE ({org:String} = '' OR org = {org:String})
    AND time >= fromUnixTimestamp64Micro({start_us:Int64}, 'UTC')
    AND time < fromUnixTimestamp64Micro({end_us:Int64}, 'UTC')
GROUP BY lane
ORDER BY lane
SETTINGS do_not_merge_across_partitions_select_final = 1
