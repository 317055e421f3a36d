-- Which transitions of alerts stand in the store for these blocks of a partition, for one org or all?
SELECT
    alert_id,
    sequence,
    transition,
    rule,
    rule_revision,
    org,
    scope,
    scope_id,
    measure,
    unit,
    window,
    window_start,
    window_end,
    threshold,
    percent,
    budget,
    value,
    highest,
    crossed_source,
    crossed_id,
    crossed_time,
    top_kinds,
    top_ids,
    top_values,
    unpriced,
    watermark,
    method,
    block_partition,
    block,
    recorded_at
FROM alerts_rows FINAL
WHERE block_partition = {block_partition:Int32}
    AND block >= {first:UInt64}
    AND block < {end:UInt64}
    AND ({org:String} = '' OR org = {org:String})
ORDER BY block, alert_id, sequence
SETTINGS do_not_merge_across_partitions_select_final = 1
