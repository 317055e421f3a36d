-- What should the totals of a slice be by their facts and corrections, and which of them are not?
--
-- One row per lane that has facts or a total, with the columns of totals_rows as they should be, and what is wrong. A
-- fence is the first block of its partition that was not committed when the question was asked. A lane's facts and
-- corrections are summed up to its total's version, or up to the fence where the total is older or missing; one between
-- the two says that the total is behind. A total without any fact becomes a row of zeros.
-- A meter whose quantities and costs are all 0 is a line like any other as long as an event has it. sumMap leaves out keys
-- whose sums are all 0; how many events have the line is among them.
WITH
    totals AS
    (
        SELECT
            *,
            cityHash64(org, hour, project, api_key, environment, `user`, operation, provider, model) AS lane
        FROM totals_rows FINAL
        WHERE org >= {org_first:String}
            AND org <= {org_last:String}
            AND hour >= toDateTime({start:UInt32}, 'UTC')
            AND hour < toDateTime({end:UInt32}, 'UTC')
    ),
    facts AS
    (
        SELECT
            *,
            cityHash64(org, toStartOfHour(time), project, api_key, environment, `user`, operation, provider, model) AS lane,
            transform(block_partition, {partitions:Array(Int32)}, {fences:Array(UInt64)}, toUInt64(0)) AS fence
        FROM changes
        WHERE org >= {org_first:String}
            AND org <= {org_last:String}
            AND time >= toDateTime({start:UInt32}, 'UTC')
            AND time < toDateTime({end:UInt32}, 'UTC')
    ),
    sums AS
    (
        SELECT
            lane,
            any(facts.org) AS org,
            toStartOfHour(any(facts.time)) AS hour,
            any(facts.project) AS project,
            any(facts.api_key) AS api_key,
            any(facts.environment) AS environment,
            any(facts.`user`) AS `user`,
            any(facts.operation) AS operation,
            any(facts.provider) AS provider,
            any(facts.model) AS model,
            toUInt64(sum(sign)) AS requests,
            toUInt64(sumIf(sign, status = 'ok')) AS ok,
            toUInt64(sumIf(sign, status != 'ok')) AS failed,
            toUInt64(sumIf(sign, pricing = 'unpriced')) AS unpriced,
            sum(sign * ifNull(facts.cost, 0)) AS cost,
            sumIf(sign * ifNull(facts.cost, 0), status != 'ok') AS failed_cost,
            max(facts.time) AS newest_time,
            sumMap(
                arrayMap((meter, name) -> concat(meter, '\n', name), facts.meters, facts.names),
                arrayMap(quantity -> sign * quantity, facts.quantities),
                arrayMap((quantity, state) -> if(state = 'billed', sign * quantity, 0), facts.quantities, states),
                arrayMap(line_cost -> sign * ifNull(line_cost, 0), facts.costs),
                arrayMap(line_cost -> sign * isNotNull(line_cost), facts.costs),
                arrayMap(state -> sign * (state = 'unpriced'), states),
                arrayMap(meter -> sign, facts.meters)
            ) AS sums_of_lines,
            any(facts.block_partition) AS block_partition,
            max(greatest(versions.until, facts.fence)) - 1 AS version,
            countIf(facts.change_block >= versions.until) AS facts_behind
        FROM facts
        LEFT JOIN (SELECT lane, version + 1 AS until FROM totals) AS versions ON facts.lane = versions.lane
        WHERE facts.change_block < greatest(versions.until, facts.fence)
        GROUP BY lane
    ),
    rebuilt AS
    (
        SELECT
            * EXCEPT sums_of_lines,
            arrayMap(key -> splitByChar('\n', key)[1], sums_of_lines.1) AS meters,
            arrayMap(key -> splitByChar('\n', key)[2], sums_of_lines.1) AS names,
            sums_of_lines.2 AS quantities,
            sums_of_lines.3 AS billed_quantities,
            arrayMap((line_cost, priced) -> if(priced > 0, line_cost, NULL), sums_of_lines.4, sums_of_lines.5) AS costs,
            sums_of_lines.6 AS unpriced_events,
            sums_of_lines.7 AS events
        FROM sums
    )
SELECT
    if(rebuilt.lane != 0, rebuilt.org, totals.org) AS org,
    if(rebuilt.lane != 0, rebuilt.hour, totals.hour) AS hour,
    if(rebuilt.lane != 0, rebuilt.project, totals.project) AS project,
    if(rebuilt.lane != 0, rebuilt.api_key, totals.api_key) AS api_key,
    if(rebuilt.lane != 0, rebuilt.environment, totals.environment) AS environment,
    if(rebuilt.lane != 0, rebuilt.`user`, totals.`user`) AS `user`,
    if(rebuilt.lane != 0, rebuilt.operation, totals.operation) AS operation,
    if(rebuilt.lane != 0, rebuilt.provider, totals.provider) AS provider,
    if(rebuilt.lane != 0, rebuilt.model, totals.model) AS model,
    rebuilt.requests AS requests,
    rebuilt.ok AS ok,
    rebuilt.failed AS failed,
    rebuilt.unpriced AS unpriced,
    rebuilt.cost AS cost,
    rebuilt.failed_cost AS failed_cost,
    rebuilt.newest_time AS newest_time,
    rebuilt.meters AS meters,
    rebuilt.names AS names,
    rebuilt.quantities AS quantities,
    rebuilt.billed_quantities AS billed_quantities,
    rebuilt.costs AS costs,
    rebuilt.unpriced_events AS unpriced_events,
    rebuilt.events AS events,
    if(rebuilt.lane != 0, rebuilt.block_partition, totals.block_partition) AS block_partition,
    if(rebuilt.lane != 0, rebuilt.version, totals.version) AS version,
    totals.requests AS stored_requests,
    totals.cost AS stored_cost,
    totals.lane != 0 AS is_stored,
    arrayZip(totals.meters, totals.names, totals.quantities, totals.billed_quantities, totals.costs, totals.unpriced_events, totals.events)
        AS stored_lines,
    rebuilt.facts_behind AS facts_behind,
    (rebuilt.requests, rebuilt.ok, rebuilt.failed, rebuilt.unpriced, rebuilt.cost, rebuilt.failed_cost, rebuilt.newest_time)
        = (totals.requests, totals.ok, totals.failed, totals.unpriced, totals.cost, totals.failed_cost, totals.newest_time)
        AS sums_equal,
    (rebuilt.meters, rebuilt.names, rebuilt.quantities, rebuilt.billed_quantities, rebuilt.unpriced_events, rebuilt.events)
        = (totals.meters, totals.names, totals.quantities, totals.billed_quantities, totals.unpriced_events, totals.events)
        AND toString(rebuilt.costs) = toString(totals.costs) AS quantities_equal
FROM rebuilt
FULL OUTER JOIN totals ON rebuilt.lane = totals.lane
ORDER BY org, hour, project, api_key, environment, `user`, operation, provider, model
SETTINGS do_not_merge_across_partitions_select_final = 1, join_use_nulls = 0
