-- What does each window of each scope value sum up to, over a span of whole hours? (the kinds that are no calendar
-- window are one window over the whole span; the value "" stands for the events without one)
SELECT
    toString({by:Identifier}) AS id,
    multiIf(
        {window:String} = 'hour', toUnixTimestamp(hour),
        {window:String} = 'day', toUnixTimestamp(toStartOfDay(hour)),
        {window:String} = 'week', toUnixTimestamp(toDateTime(toMonday(hour), 'UTC')),
        {window:String} = 'month', toUnixTimestamp(toDateTime(toStartOfMonth(hour), 'UTC')),
        {start:UInt32}
    ) AS start_seconds,
    sum(stored.requests) AS requests,
    sum(stored.ok) AS ok,
    sum(stored.failed) AS failed,
    sum(stored.unpriced) AS unpriced,
    sum(stored.cost) AS cost,
    sum(stored.failed_cost) AS failed_cost,
    toUnixTimestamp64Micro(max(stored.newest_time)) AS newest_us,
    sum(
        arraySum(
            (quantity, meter, name) -> if(
                endsWith(meter, '_tokens') AND NOT (has({memos:Array(String)}, meter) AND name = ''),
                quantity,
                toDecimal128(0, 12)
            ),
            quantities,
            meters,
            names
        )
    ) AS tokens
FROM totals_rows AS stored FINAL
WHERE org = {org:String}
    AND hour >= toDateTime({start:UInt32}, 'UTC')
    AND hour < toDateTime({end:UInt32}, 'UTC')
    AND stored.requests > 0
GROUP BY id, start_seconds
ORDER BY id, start_seconds
SETTINGS do_not_merge_across_partitions_select_final = 1
