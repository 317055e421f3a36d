-- What did one org use and spend in each of several windows of whole hours? (starts and ends in seconds since 1970)
SELECT
    window,
    sum(stored.requests) AS requests,
    sum(stored.ok) AS ok,
    sum(stored.failed) AS failed,
    sum(stored.unpriced) AS unpriced,
    sum(stored.cost) AS cost,
    sum(stored.failed_cost) AS failed_cost,
    toUnixTimestamp64Micro(max(stored.newest_time)) AS newest_us,
    sum(arraySum((quantity, meter) -> if(meter = 'input_tokens', quantity, toDecimal128(0, 12)), quantities, meters)) AS input_tokens,
    sum(arraySum((quantity, meter) -> if(meter = 'output_tokens', quantity, toDecimal128(0, 12)), quantities, meters)) AS output_tokens
FROM totals_rows AS stored FINAL
ARRAY JOIN
    arrayFilter(
        place -> toUnixTimestamp(hour) >= {starts:Array(UInt32)}[place] AND toUnixTimestamp(hour) < {ends:Array(UInt32)}[place],
        arrayEnumerate({starts:Array(UInt32)})
    ) AS window
WHERE org = {org:String}
    AND stored.requests > 0
GROUP BY window
ORDER BY window
SETTINGS do_not_merge_across_partitions_select_final = 1
