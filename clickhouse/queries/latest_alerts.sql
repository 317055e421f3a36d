-- What is the latest transition of each alert of these rules, before a block? With {at_starts} those whose window
-- begins at one of the starts; else those that still fire, and those whose window begins at or after {since}.
SELECT *
FROM
(
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
        AND block < {before:UInt64}
        AND ({every_org:Bool} OR org IN {orgs:Array(String)})
        AND (rule, rule_revision) IN (SELECT arrayJoin(arrayZip({rules:Array(String)}, {revisions:Array(UInt32)})))
    ORDER BY sequence DESC
    LIMIT 1 BY alert_id
)
WHERE if(
        {at_starts:Bool},
        ifNull(toUnixTimestamp64Micro(window_start), 0) IN {starts:Array(Int64)},
        transition = 'fired' OR ifNull(toUnixTimestamp64Micro(window_start), 0) >= {since:Int64}
    )
ORDER BY alert_id
