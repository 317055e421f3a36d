-- Which raw records of some stretches of 65,536 offsets are not, or not fully, accounted for?
-- `of` is 0 when nothing is known of a record; else `indexes` are those of its events that are known.
WITH
    coordinates AS
    (
        SELECT partition, offset, `index`, of FROM facts_rows FINAL WHERE topic = {topic:String}
        UNION ALL
        SELECT partition, offset, `index`, of FROM duplicates_rows FINAL WHERE topic = {topic:String}
        UNION ALL
        SELECT partition, offset, `index`, of
        FROM rejected_rows FINAL
        WHERE topic = {topic:String}
            AND reason != 'conflict'
    ),
    known AS
    (
        SELECT
            offset,
            max(of) AS of,
            arraySort(groupUniqArray(`index`)) AS indexes
        FROM coordinates
        WHERE partition = {partition:Int32}
            AND intDiv(offset, 65536) IN {stretches:Array(Int64)}
        GROUP BY offset
    ),
    wanted AS
    (
        SELECT arrayJoin(arrayMap(place -> stretch * 65536 + place, range(65536))) AS offset
        FROM (SELECT arrayJoin({stretches:Array(Int64)}) AS stretch)
    )
SELECT
    wanted.offset AS offset,
    known.of AS of,
    known.indexes AS indexes
FROM wanted
LEFT JOIN known ON wanted.offset = known.offset
WHERE wanted.offset >= {begin:Int64}
    AND wanted.offset < {end:Int64}
    AND (known.of = 0 OR known.indexes != range(toUInt32(known.of)))
ORDER BY offset
SETTINGS do_not_merge_across_partitions_select_final = 1, join_use_nulls = 0
