-- Which identities were counted more than once within the dedupe horizon?
-- The first look is by hash and without merging: replayed rows are equal, so only identities with two times or two
-- arrivals are looked at in full. Done in buckets, so that memory stays bounded.
WITH
    suspects AS
    (
        SELECT cityHash64(org, source, id) AS identity
        FROM facts_rows
        WHERE ({org:String} = '' OR org = {org:String})
            AND identity % {buckets:UInt64} = {bucket:UInt64}
        GROUP BY identity
        HAVING min(time) != max(time) OR min(received_at) != max(received_at)
    )
SELECT
    org,
    source,
    id,
    arraySort(groupArray(toUnixTimestamp64Micro(received_at))) AS arrivals_us,
    countEqual(
        arrayMap((later, earlier) -> later - earlier <= {horizon_us:Int64}, arrayPopFront(arrivals_us), arrayPopBack(arrivals_us)),
        1
    ) AS extra
FROM facts_rows FINAL
WHERE ({org:String} = '' OR org = {org:String})
    AND cityHash64(org, source, id) IN (SELECT identity FROM suspects)
GROUP BY org, source, id
HAVING extra > 0
ORDER BY org, source, id
SETTINGS do_not_merge_across_partitions_select_final = 1
