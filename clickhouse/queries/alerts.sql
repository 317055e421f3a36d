-- Which transitions of alerts did the events of a span bring about for one org, newest event first, a page that begins
-- after a given row?
SELECT
    alert_id,
    sequence,
    toString(transition) AS transition,
    rule,
    rule_revision,
    org,
    scope,
    scope_id,
    measure,
    unit,
    window,
    toUnixTimestamp64Micro(window_start) AS window_start_us,
    toUnixTimestamp64Micro(window_end) AS window_end_us,
    threshold,
    percent,
    budget,
    value,
    highest,
    crossed_source,
    crossed_id,
    toUnixTimestamp64Micro(crossed_time) AS crossed_us,
    top_kinds,
    top_ids,
    top_values,
    unpriced,
    toUnixTimestamp64Micro(watermark) AS watermark_us,
    method,
    toUnixTimestamp64Micro(ifNull(crossed_time, recorded_at)) AS happened_us
FROM alerts_rows FINAL
WHERE org = {org:String}
    AND ifNull(crossed_time, recorded_at) >= fromUnixTimestamp64Micro({start_us:Int64}, 'UTC')
    AND ifNull(crossed_time, recorded_at) < fromUnixTimestamp64Micro({end_us:Int64}, 'UTC')
    AND (happened_us, alert_id, sequence) < ({after_us:Int64}, {after_alert_id:String}, {after_sequence:UInt32})
ORDER BY happened_us DESC, alert_id DESC, sequence DESC
LIMIT {limit:UInt64}
SETTINGS do_not_merge_across_partitions_select_final = 1
