-- What do the windows of these scopes hold, by the hourly totals, and which block wrote last of what was summed up? Hours
-- in ahead_* were written by a later block and are summed up from the facts instead (window_sums_of_facts). Conditions
-- on what a row is called stand in PREWHERE, where they are met before FINAL: all versions of it are called the same.
SELECT
    org,
    scope_id AS id,
    start,
    lane,
    toDecimal128(sum(requests), 12) AS requests_sum,
    toDecimal128(sum(failed), 12) AS failed_sum,
    toDecimal128(sum(unpriced), 12) AS unpriced_sum,
    sum(cost) AS cost_sum,
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
    ) AS quantities_sum,
    max(version) AS last_block
FROM totals_rows FINAL
PREWHERE block_partition = {block_partition:Int32}
    AND org IN {orgs:Array(String)}
    AND hour >= toDateTime({from_seconds:UInt32}, 'UTC')
    AND hour <= toDateTime({to_seconds:UInt32}, 'UTC')
    AND ({every_id:Bool} OR {scope:Identifier} IN {ids:Array(String)})
    AND {scope:Identifier} != ''
WHERE (org, start) IN (
        SELECT arrayJoin(arrayZip({window_orgs:Array(String)}, {window_starts:Array(Int64)}))
    )
    AND (org, toUnixTimestamp(hour)) NOT IN (
        SELECT arrayJoin(arrayZip({ahead_orgs:Array(String)}, {ahead_hours:Array(UInt32)}))
    )
GROUP BY
    org,
    {scope:Identifier} AS scope_id,
    toInt64(
        multiIf(
            {grain:String} = 'hour', toUnixTimestamp(hour),
            {grain:String} = 'day', toUnixTimestamp(toStartOfDay(hour)),
            {grain:String} = 'week', toUnixTimestamp(toDateTime(toMonday(hour), 'UTC')),
            {grain:String} = 'month', toUnixTimestamp(toDateTime(toStartOfMonth(hour), 'UTC')),
            0
        )
    ) * 1000000 AS start,
    if({is_split:Bool}, {by:Identifier}, '') AS lane
ORDER BY org, id, start, lane
