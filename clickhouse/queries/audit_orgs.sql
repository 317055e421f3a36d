-- How many rows of facts, corrections and totals does each org have, at least one?
SELECT
    org,
    sum(rows) AS rows
FROM
(
    SELECT org, count() AS rows FROM facts_rows GROUP BY org
    UNION ALL
    SELECT org, 2 * count() AS rows FROM corrections_rows GROUP BY org
    UNION ALL
    SELECT org, count() AS rows FROM totals_rows GROUP BY org
)
WHERE ({org:String} = '' OR org = {org:String})
GROUP BY org
ORDER BY org
