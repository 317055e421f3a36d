-- What were the totals of these orgs in these hours before a block, by the facts and corrections themselves?
-- Used when a stored total is newer than the block that will be read next: after a crash, before the replay.
WITH
    counted AS
    (
        SELECT *
        FROM changes
        WHERE org IN {orgs:Array(String)}
            AND toStartOfHour(time) IN (SELECT arrayJoin(arrayMap(seconds -> toDateTime(seconds, 'UTC'), {hours:Array(UInt32)})))
            AND block_partition = {block_partition:Int32}
            AND change_block < {before:UInt64}
    ),
    sums AS
    (
        SELECT
            org,
            toStartOfHour(time) AS hour,
            project,
            api_key,
            environment,
            `user`,
            operation,
            provider,
            model,
            sum(sign) AS requests,
            sumIf(sign, status = 'ok') AS ok,
            sumIf(sign, status != 'ok') AS failed,
            sumIf(sign, pricing = 'unpriced') AS unpriced,
            sum(sign * ifNull(cost, 0)) AS cost_sum,
            sumIf(sign * ifNull(cost, 0), status != 'ok') AS failed_cost,
            max(time) AS newest_time,
            max(change_block) AS version
        FROM counted
        GROUP BY org, hour, project, api_key, environment, `user`, operation, provider, model
    ),
    named AS
    (
        SELECT
            org,
            toStartOfHour(time) AS hour,
            project,
            api_key,
            environment,
            `user`,
            operation,
            provider,
            model,
            toString(meter) AS meter_name,
            toString(name) AS invoice_name,
            sum(sign * quantity) AS quantity_sum,
            sumIf(sign * quantity, state = 'billed') AS billed_sum,
            sum(sign * line_cost) AS cost_sum,
            sumIf(sign, state = 'unpriced') AS unpriced_sum,
            sum(sign) AS events
        FROM counted
        ARRAY JOIN
            meters AS meter,
            names AS name,
            quantities AS quantity,
            costs AS line_cost,
            states AS state
        GROUP BY org, hour, project, api_key, environment, `user`, operation, provider, model, meter_name, invoice_name
        HAVING events > 0
    ),
    quantities_of_lanes AS
    (
        SELECT
            org,
            hour,
            project,
            api_key,
            environment,
            `user`,
            operation,
            provider,
            model,
            arraySort(groupArray((meter_name, invoice_name, quantity_sum, billed_sum, cost_sum, unpriced_sum, events))) AS listed
        FROM named
        GROUP BY org, hour, project, api_key, environment, `user`, operation, provider, model
    )
SELECT
    org,
    toUnixTimestamp(hour) AS hour_seconds,
    project,
    api_key,
    environment,
    `user`,
    operation,
    provider,
    model,
    requests,
    ok,
    failed,
    unpriced,
    cost_sum AS cost,
    failed_cost,
    newest_time,
    listed.1 AS meters,
    listed.2 AS names,
    listed.3 AS quantities,
    listed.4 AS billed_quantities,
    listed.5 AS costs,
    listed.6 AS unpriced_events,
    listed.7 AS events,
    {block_partition:Int32} AS block_partition,
    version
FROM sums
LEFT JOIN quantities_of_lanes USING (org, hour, project, api_key, environment, `user`, operation, provider, model)
ORDER BY org, hour
