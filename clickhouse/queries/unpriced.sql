-- What did one org use without a price, by meter, since when, and how many events does the span have in all?
-- An event that lacks several prices gives a row for each; the fact itself is counted at the first of them (place 1,
-- or 0 when it lacks nothing). An event of which nothing at all has a price lacks one for its `requests`.
WITH
    multiIf(
        pricing != 'unpriced', [],
        has(states, 'unpriced'), arrayMap(
            line -> (toString(line.1), line.2),
            arrayFilter(line -> line.3 = 'unpriced', arrayZip(meters, quantities, states))
        ),
        [('requests', toDecimal128(1, 12))]
    ) AS lacking_lines
SELECT
    toString(operation) AS operation,
    toString(provider) AS provider,
    toString(model) AS model,
    toString(lacking.1) AS meter,
    count() AS events,
    sum(lacking.2) AS quantity,
    toUnixTimestamp64Micro(min(time)) AS since_us,
    countIf(place <= 1) AS facts,
    countIf(place = 1) AS unpriced_events,
    toUnixTimestamp64Micro(max(time)) AS newest_us
FROM facts
LEFT ARRAY JOIN
    lacking_lines AS lacking,
    arrayEnumerate(lacking_lines) AS place
WHERE org = {org:String}
    AND time >= fromUnixTimestamp64Micro({start_us:Int64}, 'UTC')
    AND time < fromUnixTimestamp64Micro({end_us:Int64}, 'UTC')
GROUP BY operation, provider, model, meter
ORDER BY operation, provider, model, meter
SETTINGS do_not_merge_across_partitions_select_final = 1
