-- What does each lane sum up to, over a span of whole hours? (every org when none is named)
SELECT
    toString({by:Identifier}) AS lane,
    sum(stored.requests) AS requests,
    sum(stored.ok) AS ok,
    sum(stored.failed) AS failed,
    sum(stored.unpriced) AS unpriced,
    sum(stored.cost) AS cost,
    sum(stored.failed_cost) AS failed_cost,
    toUnixTimestamp64Micro(max(stored.newest_time)) AS newest_us
FROM totals_rows AS stored FINAL
WHERE ({org:String} = '' OR org = {org:String})
    AND hour >= toDateTime({start:UInt32}, 'UTC')
    AND hour < toDateTime({end:UInt32}, 'UTC')
    AND stored.requests > 0
GROUP BY lane
ORDER BY lane
SETTINGS do_not_merge_across_partitions_select_final = 1
