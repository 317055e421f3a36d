-- Which transitions of alerts does the view show for some orgs, or for some alert ids of one org ({id_end} '' is no end)?
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
FROM alerts
WHERE org >= {org_first:String}
    AND org <= {org_last:String}
    AND alert_id >= {id_first:String}
    AND ({id_end:String} = '' OR alert_id < {id_end:String})
ORDER BY org, alert_id, sequence
