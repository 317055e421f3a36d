-- How many corrections of a slice do not begin with the figures that stood before them: the fact's, or the last correction's?
WITH
    corrections AS
    (
        SELECT *
        FROM corrections_rows FINAL
        WHERE org >= {org_first:String}
            AND org <= {org_last:String}
            AND time >= toDateTime({start:UInt32}, 'UTC')
            AND time < toDateTime({end:UInt32}, 'UTC')
    ),
    standing AS
    (
        SELECT partition, offset, `index`, toUInt32(0) AS revision, cost, pricing, lines, quantities, costs
        FROM facts_rows FINAL
        WHERE org >= {org_first:String}
            AND org <= {org_last:String}
            AND time >= toDateTime({start:UInt32}, 'UTC')
            AND time < toDateTime({end:UInt32}, 'UTC')
            AND (partition, offset, `index`) IN (SELECT partition, offset, `index` FROM corrections)
        UNION ALL
        SELECT partition, offset, `index`, revision, cost, pricing, lines, quantities, costs
        FROM corrections
    )
SELECT
    count() AS corrections,
    countIf(
        toString((old_cost, old_pricing, old_lines, old_quantities, old_costs))
            != toString((standing.cost, standing.pricing, standing.lines, standing.quantities, standing.costs))
        AS is_odd
    ) AS odd_corrections,
    groupArrayIf(5)(concat(org, ' ', source, ' ', id), is_odd) AS examples
FROM corrections
LEFT JOIN standing
    ON corrections.partition = standing.partition
    AND corrections.offset = standing.offset
    AND corrections.`index` = standing.`index`
    AND corrections.revision = standing.revision + 1
ORDER BY corrections
SETTINGS do_not_merge_across_partitions_select_final = 1
