-- What are the totals of these orgs in these hours, and at which version?
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
    cost,
    failed_cost,
    newest_time,
    meters,
    names,
    quantities,
    billed_quantities,
    costs,
    unpriced_events,
    events,
    block_partition,
    version
FROM totals_rows FINAL
WHERE org IN {orgs:Array(String)}
    AND hour IN (SELECT arrayJoin(arrayMap(seconds -> toDateTime(seconds, 'UTC'), {hours:Array(UInt32)})))
    AND block_partition = {block_partition:Int32}
ORDER BY org, hour
