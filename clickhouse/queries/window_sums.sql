-- What do the windows of these scopes hold, by the hourly totals, and which block wrote last of what was summed up? Hours
-- in ahead_* were written by a later block and are summed up from the facts instead (window_sums_of_facts).
SELECT
    org,
    scope_id AS id,
    window_start AS start,
    lane,
    toDecimal128(sum(requests), 12) AS requests_sum,
    toDecimal128(sum(failed), 12) AS failed_sum,
    toDecimal128(sum(unpriced), 12) AS unpriced_sum,
    sum(cost) AS cost_sum,
    sum(
        arraySum(
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
            wanted -> arraySum(
                (quantity, meter) -> if(meter = wanted, quantity, toDecimal128(0, 12)), quantities, meters
            ),
            {names:Array(String)}
        )
    ) AS quantities_sum,
    max(version) AS last_block
FROM totals_rows FINAL
WHERE block_partition = {block_partition:Int32}
    AND org IN {orgs:Array(String)}
    AND hour >= toDateTime({from_seconds:UInt32}, 'UTC')
    AND hour <= toDateTime({to_seconds:UInt32}, 'UTC')
    AND (org, window_start) IN (
        SELECT arrayJoin(arrayZip({window_orgs:Array(String)}, {window_starts:Array(Int64)}))
    )
    AND (org, toUnixTimestamp(hour)) NOT IN (
        SELECT arrayJoin(arrayZip({ahead_orgs:Array(String)}, {ahead_hours:Array(UInt32)}))
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
            {grain:String} = 'hour', toUnixTimestamp(hour),
            {grain:String} = 'day', toUnixTimestamp(toStartOfDay(hour)),
            {grain:String} = 'week', toUnixTimestamp(toDateTime(toMonday(hour), 'UTC')),
            {grain:String} = 'month', toUnixTimestamp(toDateTime(toStartOfMonth(hour), 'UTC')),
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
