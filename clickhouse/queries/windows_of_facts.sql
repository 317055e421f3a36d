-- What does each scope value sum up to, over any span of event time? (one window each; the value "" stands for the
-- events without one)
SELECT
    toString({by:Identifier}) AS id,
    count() AS requests,
    countIf(status = 'ok') AS ok,
    countIf(status != 'ok') AS failed,
    countIf(pricing = 'unpriced') AS unpriced,
    sum(ifNull(stored.cost, 0)) AS cost,
    sumIf(ifNull(stored.cost, 0), status != 'ok') AS failed_cost,
    toUnixTimestamp64Micro(max(time)) AS newest_us,
    sum(
        arraySum(
            (quantity, meter, state) -> if(endsWith(meter, '_tokens') AND state != 'memo', quantity, toDecimal128(0, 12)),
            quantities,
            meters,
            states
        )
    ) AS tokens
FROM facts AS stored
WHERE org = {org:String}
    AND time >= fromUnixTimestamp64Micro({start_us:Int64}, 'UTC')
    AND time < fromUnixTimestamp64Micro({end_us:Int64}, 'UTC')
GROUP BY id
ORDER BY id
SETTINGS do_not_merge_across_partitions_select_final = 1
