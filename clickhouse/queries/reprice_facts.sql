-- What do the events of one org cost now, over a span of event time, in pages? (only those without a price if asked)
SELECT
    partition,
    offset,
    `index`,
    of,
    received_at,
    org,
    source,
    id,
    time,
    operation,
    project,
    api_key,
    environment,
    `user`,
    provider,
    model,
    variant,
    status,
    tags,
    topic,
    cost,
    pricing,
    arrayStringConcat(
        arrayMap((meter, name, price_id, state) -> concat(meter, '\t', name, '\t', price_id, '\t', state), meters, names, price_ids, states),
        '\n'
    ) AS lines,
    quantities,
    costs
FROM facts
WHERE org = {org:String}
    AND time >= fromUnixTimestamp64Micro({after_us:Int64}, 'UTC')
    AND time < fromUnixTimestamp64Micro({end_us:Int64}, 'UTC')
    AND (toUnixTimestamp64Micro(time), source, id, toUnixTimestamp64Micro(received_at))
        > ({after_us:Int64}, {after_source:String}, {after_id:String}, {after_received_us:Int64})
    AND ({unpriced_only:UInt8} = 0 OR pricing = 'unpriced')
ORDER BY time, source, id, received_at
LIMIT {limit:UInt32}
