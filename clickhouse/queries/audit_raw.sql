-- Is every raw record between the log's begin and the committed offset accounted for, in stretches of 65,536 offsets?
-- A record is accounted for when all its events are facts, repeats or refusals. Coordinates are collected as bitmaps of
-- offset within the stretch × 4,096 + index (a record holds at most 1,000 events), so that a stretch costs kilobytes.
-- The lowest begin and the highest end stand beside every table so that its index of offsets is used.
WITH
    coordinates AS
    (
        SELECT partition, offset, `index`, of, 1 AS counted
        FROM facts_rows FINAL
        WHERE topic = {topic:String}
            AND offset >= arrayMin({begins:Array(Int64)})
            AND offset < arrayMax({ends:Array(Int64)})
        UNION ALL
        SELECT partition, offset, `index`, of, 1 AS counted
        FROM duplicates_rows FINAL
        WHERE topic = {topic:String}
            AND offset >= arrayMin({begins:Array(Int64)})
            AND offset < arrayMax({ends:Array(Int64)})
        UNION ALL
        SELECT partition, offset, `index`, of, 0 AS counted
        FROM rejected_rows FINAL
        WHERE topic = {topic:String}
            AND reason != 'conflict'
            AND offset >= arrayMin({begins:Array(Int64)})
            AND offset < arrayMax({ends:Array(Int64)})
    )
SELECT
    partition,
    intDiv(offset, 65536) AS stretch,
    groupBitmap(toUInt32(offset % 65536)) AS records,
    groupBitmap(toUInt32(offset % 65536 * 4096 + `index`)) AS events,
    arraySum(
        place -> place % 4096,
        bitmapToArray(groupBitmapState(toUInt32(offset % 65536 * 4096 + of)))
    ) AS events_expected,
    countIf(`index` >= of) AS events_misplaced,
    sum(counted) AS uses,
    groupBitmapIf(toUInt32(offset % 65536 * 4096 + `index`), counted) AS used
FROM coordinates
WHERE offset >= transform(partition, {partitions:Array(Int32)}, {begins:Array(Int64)}, toInt64(0))
    AND offset < transform(partition, {partitions:Array(Int32)}, {ends:Array(Int64)}, toInt64(0))
GROUP BY partition, stretch
ORDER BY partition, stretch
SETTINGS do_not_merge_across_partitions_select_final = 1
