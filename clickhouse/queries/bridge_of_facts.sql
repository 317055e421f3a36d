-- What did each lane of one org use and what did it cost, meter by meter, over any span of event time?
-- As bridge_of_hours, from the facts: their events are taken at the first of their meters.
WITH
    arrayZip(meters, names, quantities, costs, states) AS lines
SELECT
    toString({by:Identifier}) AS lane,
    toString(operation) AS operation,
    toString(provider) AS provider,
    toString(model) AS model,
    toString(line.1) AS meter,
    toString(line.2) AS name,
    sum(if(line.5 IN ('billed', 'unpriced'), line.3, 0)) AS used,
    sum(line.3) AS quantity,
    sum(if(line.5 = 'billed', line.3, 0)) AS billed,
    sum(ifNull(line.4, 0)) AS meter_cost,
    countIf(place <= 1) AS events,
    countIf(pricing = 'unpriced' AND place <= 1) AS unpriced_events,
    toUnixTimestamp64Micro(max(time)) AS newest_us
FROM facts AS stored
LEFT ARRAY JOIN
    lines AS line,
    arrayEnumerate(lines) AS place
WHERE org = {org:String}
    AND time >= fromUnixTimestamp64Micro({start_us:Int64}, 'UTC')
    AND time < fromUnixTimestamp64Micro({end_us:Int64}, 'UTC')
GROUP BY lane, operation, provider, model, meter, name
ORDER BY lane, operation, provider, model, meter, name
SETTINGS do_not_merge_across_partitions_select_final = 1
