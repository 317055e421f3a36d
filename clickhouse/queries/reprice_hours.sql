-- In which hours that a span touches does one org have events, and how many of them lack a price?
SELECT
    toUnixTimestamp(hour) AS start,
    sum(stored.requests) AS events,
    sum(stored.unpriced) AS unpriced
FROM totals_rows AS stored FINAL
WHERE org = {org:String}
    AND hour >= toStartOfHour(toDateTime({start:UInt32}, 'UTC'))
    AND hour < toDateTime({end:UInt32}, 'UTC')
    AND stored.requests > 0
GROUP BY hour
ORDER BY hour
SETTINGS do_not_merge_across_partitions_select_final = 1
