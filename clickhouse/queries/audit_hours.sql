-- How many rows of facts, corrections and totals does one org have in each hour, at least one?
SELECT
    toUnixTimestamp(hour) AS start,
    sum(rows) AS rows
FROM
(
    SELECT toStartOfHour(time) AS hour, count() AS rows FROM facts_rows WHERE org = {org:String} GROUP BY hour
    UNION ALL
    SELECT toStartOfHour(time) AS hour, 2 * count() AS rows FROM corrections_rows WHERE org = {org:String} GROUP BY hour
    UNION ALL
    SELECT hour, count() AS rows FROM totals_rows WHERE org = {org:String} GROUP BY hour
)
GROUP BY start
ORDER BY start
