-- What did corrections change in the windows of these scopes before a block? As window_sums_of_facts, which asks the same
-- of the facts; the number of requests and of failures is never corrected.
SELECT
    org,
    scope_id AS id,
    start,
    lane,
    toDecimal128(0, 12) AS requests_sum,
    toDecimal128(0, 12) AS failed_sum,
    toDecimal128(sum((pricing = 'unpriced') - (old_pricing = 'unpriced')), 12) AS unpriced_sum,
    sum(ifNull(cost, 0) - ifNull(old_cost, 0)) AS cost_sum,
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
            ) - arraySum(
                (quantity, meter, name) -> if(
                    endsWith(meter, '_tokens') AND NOT (meter IN {memo_meters:Array(String)} AND name = ''),
                    quantity,
                    toDecimal128(0, 12)
                ),
                old_quantities,
                old_meters,
                old_names
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
                ) - arraySum(
                    (quantity, meter) -> if(meter = wanted, quantity, toDecimal128(0, 12)), old_quantities, old_meters
                ),
                {names:Array(String)}
            ),
            []
        )
    ) AS quantities_sum
FROM corrections_rows FINAL
PREWHERE block_partition = {block_partition:Int32}
    AND correction_block < {before:UInt64}
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
