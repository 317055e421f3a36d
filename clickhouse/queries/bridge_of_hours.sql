-- What did each lane of one org use and what did it cost, meter by meter, over a span of whole hours?
-- used is what a price applied to, or lacked: neither memos nor what was ignored or not billed. A total with several
-- meters gives a row for each; its events are taken at the first of them (place 1, or 0 when it has none at all).
WITH
    arrayZip(meters, names, quantities, billed_quantities, costs, stored.unpriced_events) AS lines
SELECT
    toString({by:Identifier}) AS lane,
    toString(operation) AS operation,
    toString(provider) AS provider,
    toString(model) AS model,
    toString(line.1) AS meter,
    toString(line.2) AS name,
    sum(multiIf(line.2 != '', line.4, line.6 > 0, line.3, 0)) AS used,
    sum(line.3) AS quantity,
    sum(line.4) AS billed,
    sum(ifNull(line.5, 0)) AS meter_cost,
    sumIf(stored.requests, place <= 1) AS events,
    sumIf(stored.unpriced, place <= 1) AS unpriced_events,
    toUnixTimestamp64Micro(max(stored.newest_time)) AS newest_us
FROM totals_rows AS stored FINAL
LEFT ARRAY JOIN
    lines AS line,
    arrayEnumerate(lines) AS place
WHERE org = {org:String}
    AND hour >= toDateTime({start:UInt32}, 'UTC')
    AND hour < toDateTime({end:UInt32}, 'UTC')
    AND stored.requests > 0
GROUP BY lane, operation, provider, model, meter, name
ORDER BY lane, operation, provider, model, meter, name
SETTINGS do_not_merge_across_partitions_select_final = 1
