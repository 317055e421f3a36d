-- What was billed to one org under each name, by project, operation and model, over any span of event time?
-- As invoice_of_hours, from the facts: what belongs to a fact as a whole is taken at the first of its names.
WITH
    arrayFilter(line -> line.1 != '', arrayZip(names, quantities, costs, states)) AS priced_lines
SELECT
    toString(project) AS project,
    toString(operation) AS operation,
    toString(model) AS model,
    toString(priced.1) AS name,
    sum(if(priced.4 = 'billed', priced.2, 0)) AS quantity,
    sum(ifNull(priced.3, 0)) AS meter_cost,
    countIf(place <= 1) AS events,
    countIf(pricing = 'unpriced' AND place <= 1) AS unpriced_events,
    sumIf(ifNull(cost, 0), place <= 1) AS event_cost,
    toUnixTimestamp64Micro(max(time)) AS newest_us
FROM facts AS stored
LEFT ARRAY JOIN
    priced_lines AS priced,
    arrayEnumerate(priced_lines) AS place
WHERE org = {org:String}
    AND time >= fromUnixTimestamp64Micro({start_us:Int64}, 'UTC')
    AND time < fromUnixTimestamp64Micro({end_us:Int64}, 'UTC')
GROUP BY project, operation, model, name
ORDER BY project, operation, model, name
SETTINGS do_not_merge_across_partitions_select_final = 1
