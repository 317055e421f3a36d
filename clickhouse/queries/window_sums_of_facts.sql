-- What did the windows of these scopes hold before a block, by the facts and corrections themselves? With {in_hours}
-- only in the hours of ahead_*, else whenever: steps of a minute have no totals.
SELECT
    org,
    scope_id AS id,
    window_start AS start,
    lane,
    toDecimal128(sum(sign), 12) AS requests_sum,
    toDecimal128(sumIf(sign, status != 'ok'), 12) AS failed_sum,
    toDecimal128(sumIf(sign, pricing = 'unpriced'), 12) AS unpriced_sum,
    sum(sign * ifNull(cost, 0)) AS cost_sum,
    sum(
        sign * arraySum(
            (quantity, meter, name) -> if(
                endsWith(meter, '_tokens') AND NOT (meter IN {memo_meters:Array(String)} AND name = ''),
                quantity,
                toDecimal128(0, 12)
            ),
            quantities,
            meters,
            names
        )
    ) AS tokens_sum,
    sumForEach(
        arrayMap(
            wanted -> sign * arraySum(
                (quantity, meter) -> if(meter = wanted, quantity, toDecimal128(0, 12)), quantities, meters
            ),
            {names:Array(String)}
        )
    ) AS quantities_sum
FROM
(
    SELECT *
    FROM changes
    WHERE block_partition = {block_partition:Int32}
        AND change_block < {before:UInt64}
        AND org IN {orgs:Array(String)}
        AND time >= toDateTime64({from_seconds:Int64}, 6, 'UTC')
        AND time < toDateTime64({to_seconds:Int64}, 6, 'UTC')
        AND (
            NOT {in_hours:Bool}
            OR (org, toUnixTimestamp(toStartOfHour(time))) IN (
                SELECT arrayJoin(arrayZip({ahead_orgs:Array(String)}, {ahead_hours:Array(UInt32)}))
            )
        )
)
WHERE (org, window_start) IN (
        SELECT arrayJoin(arrayZip({window_orgs:Array(String)}, {window_starts:Array(Int64)}))
    )
    AND scope_id != ''
    AND ({every_id:Bool} OR scope_id IN {ids:Array(String)})
GROUP BY
    org,
    multiIf(
        {scope:String} = 'org', org,
        {scope:String} = 'project', project,
        {scope:String} = 'api_key', api_key,
        {scope:String} = 'model', model,
        {scope:String} = 'user', `user`,
        operation
    ) AS scope_id,
    toInt64(
        multiIf(
            {grain:String} = 'minute', toUnixTimestamp(toStartOfMinute(time)),
            {grain:String} = 'hour', toUnixTimestamp(toStartOfHour(time)),
            {grain:String} = 'day', toUnixTimestamp(toStartOfDay(time)),
            {grain:String} = 'week', toUnixTimestamp(toDateTime(toMonday(time), 'UTC')),
            {grain:String} = 'month', toUnixTimestamp(toDateTime(toStartOfMonth(time), 'UTC')),
            0
        )
    ) * 1000000 AS window_start,
    multiIf(
        {by:String} = 'project', project,
        {by:String} = 'api_key', api_key,
        {by:String} = 'model', model,
        {by:String} = 'user', `user`,
        {by:String} = 'operation', operation,
        ''
    ) AS lane
ORDER BY org, id, start, lane
