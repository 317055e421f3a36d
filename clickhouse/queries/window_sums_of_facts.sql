-- What did the windows of these scopes hold before a block, by the facts themselves, before corrections? With {in_hours}
-- only in the hours of ahead_*, else whenever: steps of a minute have no totals. Conditions stand in PREWHERE, where they
-- are met before FINAL: all rows of a fact are called the same, and the one of the lowest block stays.
SELECT
    org,
    scope_id AS id,
    start,
    lane,
    toDecimal128(count(), 12) AS requests_sum,
    toDecimal128(countIf(status != 'ok'), 12) AS failed_sum,
    toDecimal128(countIf(pricing = 'unpriced'), 12) AS unpriced_sum,
    sum(ifNull(cost, 0)) AS cost_sum,
    sum(
        if(
            {with_tokens:Bool},
            arraySum(
                (quantity, meter, name) -> if(
                    endsWith(meter, '_tokens') AND NOT (meter IN {memo_meters:Array(String)} AND name = ''),
                    quantity,
                    toDecimal128(0, 12)
                ),
                quantities,
                meters,
                names
            ),
            toDecimal128(0, 12)
        )
    ) AS tokens_sum,
    sumForEach(
        if(
            {with_quantities:Bool},
            arrayMap(
                wanted -> arraySum(
                    (quantity, meter) -> if(meter = wanted, quantity, toDecimal128(0, 12)), quantities, meters
                ),
                {names:Array(String)}
            ),
            []
        )
    ) AS quantities_sum
FROM facts_rows FINAL
PREWHERE block_partition = {block_partition:Int32}
    AND block < {before:UInt64}
    AND org IN {orgs:Array(String)}
    AND time >= toDateTime64({from_seconds:Int64}, 6, 'UTC')
    AND time < toDateTime64({to_seconds:Int64}, 6, 'UTC')
    AND ({every_id:Bool} OR {scope:Identifier} IN {ids:Array(String)})
    AND {scope:Identifier} != ''
WHERE (org, start) IN (
        SELECT arrayJoin(arrayZip({window_orgs:Array(String)}, {window_starts:Array(Int64)}))
    )
    AND (
        NOT {in_hours:Bool}
        OR (org, toUnixTimestamp(toStartOfHour(time))) IN (
            SELECT arrayJoin(arrayZip({ahead_orgs:Array(String)}, {ahead_hours:Array(UInt32)}))
        )
    )
GROUP BY
    org,
    {scope:Identifier} AS scope_id,
    toInt64(
        multiIf(
            {grain:String} = 'minute', toUnixTimestamp(toStartOfMinute(time)),
            {grain:String} = 'hour', toUnixTimestamp(toStartOfHour(time)),
            {grain:String} = 'day', toUnixTimestamp(toStartOfDay(time)),
            {grain:String} = 'week', toUnixTimestamp(toDateTime(toMonday(time), 'UTC')),
            {grain:String} = 'month', toUnixTimestamp(toDateTime(toStartOfMonth(time), 'UTC')),
            0
        )
    ) * 1000000 AS start,
    if({is_split:Bool}, {by:Identifier}, '') AS lane
ORDER BY org, scope_id, start, lane
