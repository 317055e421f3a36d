-- What was billed to one org under each name, by project, operation and model, over a span of whole hours?
-- One scan answers all parts of the invoice. A total with several names gives a row for each; what belongs to the
-- total as a whole is taken at the first of them (place 1, or 0 when it has no name at all).
WITH
    arrayFilter(line -> line.1 != '', arrayZip(names, billed_quantities, costs)) AS priced_lines
SELECT
    toString(project) AS project,
    toString(operation) AS operation,
    toString(model) AS model,
    toString(priced.1) AS name,
    sum(priced.2) AS quantity,
    sum(ifNull(priced.3, 0)) AS meter_cost,
    sumIf(stored.requests, place <= 1) AS events,
    sumIf(stored.unpriced, place <= 1) AS unpriced_events,
    sumIf(stored.cost, place <= 1) AS event_cost,
    toUnixTimestamp64Micro(max(stored.newest_time)) AS newest_us
FROM totals_rows AS stored FINAL
LEFT ARRAY JOIN
    priced_lines AS priced,
    arrayEnumerate(priced_lines) AS place
WHERE org = {org:String}
    AND hour >= toDateTime({start:UInt32}, 'UTC')
    AND hour < toDateTime({end:UInt32}, 'UTC')
    AND stored.requests > 0
GROUP BY project, operation, model, name
ORDER BY project, operation, model, name
SETTINGS do_not_merge_across_partitions_select_final = 1
