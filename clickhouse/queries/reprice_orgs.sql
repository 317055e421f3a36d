-- How many events does each org have in the hours that a span touches, and how many of them lack a price?
SELECT
    org,
    sum(stored.requests) AS events,
    sum(stored.unpriced) AS unpriced
FROM totals_rows AS stored FINAL
WHERE ({org:String} = '' OR org = {org:String})
    AND hour >= toStartOfHour(toDateTime({start:UInt32}, 'UTC'))
    AND hour < toDateTime({end:UInt32}, 'UTC')
    AND stored.requests > 0
GROUP BY org
ORDER BY org
SETTINGS do_not_merge_across_partitions_select_final = 1
