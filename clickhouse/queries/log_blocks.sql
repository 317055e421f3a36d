-- Which blocks of a partition left facts, corrections or rules, and about how many rows has each? In the order of the
-- log, for one org or all, without facts of events before an instant.
SELECT
    block,
    kind,
    rows
FROM
(
    SELECT block, 'facts' AS kind, count() AS rows
    FROM facts_rows
    WHERE block_partition = {block_partition:Int32}
        AND block >= {first:UInt64}
        AND block < {end:UInt64}
        AND ({org:String} = '' OR org = {org:String})
        AND time >= fromUnixTimestamp64Micro({since_us:Int64}, 'UTC')
    GROUP BY block
    UNION ALL
    SELECT correction_block AS block, 'corrections' AS kind, count() AS rows
    FROM corrections_rows
    WHERE block_partition = {block_partition:Int32}
        AND correction_block >= {first:UInt64}
        AND correction_block < {end:UInt64}
        AND ({org:String} = '' OR org = {org:String})
        AND time >= fromUnixTimestamp64Micro({since_us:Int64}, 'UTC')
    GROUP BY correction_block
    UNION ALL
    SELECT DISTINCT block, 'control' AS kind, toUInt64(1) AS rows
    FROM control_rows
    WHERE block_partition = {block_partition:Int32}
        AND block >= {first:UInt64}
        AND block < {end:UInt64}
)
ORDER BY block
